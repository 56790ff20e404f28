// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IMarket} from "@market/IMarket.sol";
import {MarketBase} from "./MarketBase.sol";

/// @dev Tasks in which the model owner selects: seven groups of three, one of them faulty, so that two may be missing.
/// Unhappy paths first, in the order of the requires.
contract MarketSelectionTest is MarketBase {
    function setUp() public override {
        super.setUp();
        p = _selecting();
        _start();
    }

    function _selecting() private pure returns (IMarket.TaskParams memory params) {
        params = _params();
        params.modelSelection = true;
        params.maxGroups = 7;
        params.settleSeconds = 48;
    }

    function _toSelection() private {
        _open();
        _commitAll();
        _postAll();
        isTrue(_phase() == IMarket.RoundPhase.Settle, "waiting for the model owner");
    }

    /// @dev To the selection, with one owner of group 2 that keeps its vector back.
    function _toSelectionWithoutGroup2() private {
        _open();
        _commitAll();
        _deep();
        for (uint256 seat = 0; seat < 21; ++seat) {
            if (seat != 7) _post(seat);
        }
        _pass();
        market.poke(task);
        isTrue(_phase() == IMarket.RoundPhase.Settle, "waiting for the model owner");
        equal(market.getTask(task).complete, 0x7b, "all but group 2");
    }

    function _wrongPhase(IMarket.RoundPhase phase) private {
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongPhase.selector, phase));
        _select(0x3f);
    }

    function _bad(uint256 selected, uint256 count) private {
        bytes32 before = keccak256(abi.encode(market.getTask(task), market.getPaidRounds(task)));
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadSelection.selector, selected, count));
        _select(selected);
        equal(keccak256(abi.encode(market.getTask(task), market.getPaidRounds(task))), before, "nothing changed");
    }

    function _paidAre(uint256 groups, uint256 times) private view {
        uint256[] memory paid = market.getPaidRounds(task);
        for (uint256 g = 0; g < paid.length; ++g) {
            equal(paid[g], (groups >> g & 1) * times, "paid, selected or not");
        }
    }

    function _ended(IMarket.Outcome outcome, uint256 paidGroups) private {
        vm.expectEmit(true, true, false, true);
        emit IMarket.RoundEnded(
            task,
            market.getTask(task).round,
            outcome,
            paidGroups,
            _countBits(paidGroups) * 3 * p.rate,
            vm.getBlockTimestamp() + p.openSeconds
        );
    }

    // ------------------------------------------------------------------ selectGroups, refused

    function test_selectGroups_in_another_phase() external {
        vm.expectRevert(abi.encodeWithSelector(IMarket.NoSuchTask.selector, 7));
        market.selectGroups(7, ctx, 0x3f);
        _wrongPhase(IMarket.RoundPhase.Idle);
        _open();
        _wrongPhase(IMarket.RoundPhase.Commit);
        _commitAll();
        _wrongPhase(IMarket.RoundPhase.Post);
        _postAll();
        _select(0x3f);
        _wrongPhase(IMarket.RoundPhase.Idle); // a round is selected once
        vm.warp(vm.getBlockTimestamp() + 100_000);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStatus.selector, IMarket.TaskStatus.Ended));
        _select(0x3f);
    }

    function test_selectGroups_before_the_draw() external {
        _create();
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStatus.selector, IMarket.TaskStatus.Joining));
        _select(0x3f);
    }

    function test_selectGroups_of_another_context() external {
        _toSelection();
        bytes32 right = ctx;
        ctx = "other";
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongContext.selector, right, bytes32("other")));
        _select(0x3f);
    }

    function test_selectGroups_up_to_the_deadline() external {
        _toSelection();
        uint256 deadline = market.getTask(task).phaseEnd;
        equal(deadline, vm.getBlockTimestamp() + 48, "settleSeconds from the close of posting");
        vm.warp(deadline + 1);
        vm.expectRevert(abi.encodeWithSelector(IMarket.PhaseOver.selector, IMarket.RoundPhase.Settle, deadline, deadline + 1));
        _select(0x3f);
        vm.warp(deadline);
        _select(0x3f);
        equal(market.getTask(task).selected, 0x3f, "in the last second");
    }

    function test_selectGroups_where_the_contract_selects() external {
        p = _params();
        _start();
        _open();
        _commitAll();
        _postAll();
        // neither the one who pays, nor an owner, nor anybody else, with whatever groups
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotModelOwner.selector, MODEL_OWNER));
        _select(0x0f);
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotModelOwner.selector, MODEL_OWNER));
        _select(0);
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotModelOwner.selector, STRANGER));
        vm.prank(STRANGER);
        market.selectGroups(task, ctx, 0x0f);
        vm.warp(uint256(market.getTask(task).turnEnd) + 1);
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotModelOwner.selector, MODEL_OWNER));
        _select(0x0f);
        _settle(0);
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotModelOwner.selector, MODEL_OWNER));
        _select(0x0f);
        _settle(1);
        equal(market.getTask(task).paid, 4 * 3 * uint256(p.rate), "settled as ever");
    }

    function test_selectGroups_of_somebody_else() external {
        _toSelection();
        address[] memory seats = _seats();
        address[3] memory others = [STRANGER, seats[0], address(market)];
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IMarket.NotModelOwner.selector, others[i]));
            vm.prank(others[i]);
            market.selectGroups(task, ctx, 0x3f);
        }
        // also the model owner of another task
        vm.deal(STRANGER, 1e30);
        (uint256 reward,) = market.escrowRequired(p);
        vm.startPrank(STRANGER);
        market.createTask{value: reward}(p, _boxKey(STRANGER), "{}");
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotModelOwner.selector, STRANGER));
        market.selectGroups(task, ctx, 0x3f);
    }

    function test_selectGroups_that_are_not_complete() external {
        _toSelectionWithoutGroup2();
        _bad(0x1f, 5); // group 2
        _bad(0x04, 5);
        _bad(0x80 | 0x0b, 5); // no such group
        _bad(1 << 31 | 0x1b, 5);
        _bad(1 << 32 | 0x1b, 5); // above what is stored
        _bad(1 << 255 | 0x1b, 5);
        _bad(1 << 32 | 0x3b, 5); // five complete ones, and one that nobody would see
        _select(0x3b);
    }

    function test_selectGroups_too_few_or_too_many() external {
        _toSelection();
        _bad(0, 6);
        _bad(0x1f, 6);
        _bad(0x7f, 6);
        _bad(type(uint256).max, 6);
        _select(0x3f);
    }

    function test_selectGroups_strict() external {
        p.strictSelection = true;
        _start();
        _toSelection();
        _bad(0x07, 4);
        _bad(0x1f, 4);
        _bad(0x3f, 4);
        _bad(0x7f, 4);
        _select(0x5a);
        equal(market.getTask(task).selected, 0x5a, "four of seven");
        _paidAre(0x7f, 1);
    }

    /// @dev Every one of the 256 bitmaps over eight groups, without group 2 and strict: accepted are those with exactly m complete groups.
    function test_exactly_m_complete_groups_are_accepted() external {
        p.strictSelection = true;
        _start();
        _toSelectionWithoutGroup2();
        uint256 accepted = 0;
        uint256 before = vm.snapshotState();
        for (uint256 selected = 0; selected < 256; ++selected) {
            vm.prank(MODEL_OWNER);
            (bool ok,) = address(market).call(abi.encodeCall(market.selectGroups, (task, ctx, selected)));
            isTrue(ok == (selected & 0x84 == 0 && _countBits(selected) == 3), "exactly three of six");
            if (!ok) continue;
            ++accepted;
            equal(market.getTask(task).selected, selected, "as named");
            _paidAre(0x7b, 1);
            isTrue(vm.revertToState(before), "back");
        }
        equal(accepted, 20, "three of six");
    }

    // ------------------------------------------------------------------ selectGroups, and what is paid

    function test_selectGroups() external {
        _toSelectionWithoutGroup2();
        vm.expectEmit(true, true, false, true);
        emit IMarket.GroupsSelected(task, 1, 0x7b, 0x7a);
        _ended(IMarket.Outcome.Selected, 0x7b);
        _select(0x7a);
        IMarket.TaskState memory s = market.getTask(task);
        isTrue(s.phase == IMarket.RoundPhase.Idle, "the round is over");
        equal(s.selected, 0x7a, "selected");
        equal(s.complete, 0x7b, "complete");
        equal(s.emptyRounds, 0, "not empty");
        equal(s.paid, 6 * 3 * uint256(p.rate), "six groups");
        _paidAre(0x7b, 1);
        _checkMoney(task);
    }

    /// @dev Three rounds with another group left out each time: every owner has earned the same.
    function test_all_complete_groups_are_paid_whatever_is_selected() external {
        for (uint256 round = 1; round <= 3; ++round) {
            _toSelection();
            _select(0x7f ^ 1 << round);
            _paidAre(0x7f, round);
            _checkMoney(task);
        }
        isTrue(_status() == IMarket.TaskStatus.Ended, "ended");
        for (uint256 i = 0; i < 21; ++i) {
            equal(_withdraw(_owner(i)), p.stake + 3 * uint256(p.rate), "stake and three rounds");
        }
        IMarket.TaskState memory s = market.getTask(task);
        equal(s.paid, s.escrow, "all of the escrow");
        equal(s.refunded, 0, "nothing is left for the model owner");
        equal(address(market).balance, 0, "every wei is out");
    }

    function test_silence_pays_all_complete_groups() external {
        _toSelectionWithoutGroup2();
        _pass();
        _ended(IMarket.Outcome.Late, 0x7b);
        market.poke(task);
        equal(market.getTask(task).selected, 0, "none selected");
        equal(market.getTask(task).emptyRounds, 0, "not empty");
        equal(market.getTask(task).paid, 6 * 3 * uint256(p.rate), "six groups");
        _paidAre(0x7b, 1);
        _wrongPhase(IMarket.RoundPhase.Idle);
        _checkMoney(task);
        // and silence to the end: who is owed something gets it, to the wei
        address[] memory seats = _seats();
        vm.warp(vm.getBlockTimestamp() + 100_000);
        uint256 amount = 3 * uint256(p.rate);
        for (uint256 seat = 0; seat < 21; ++seat) {
            uint256 due = p.stake;
            if (seat / 3 != 2) due += p.rate;
            else if (seat == 7) due -= amount;
            else due += amount / 2;
            equal(_withdraw(seats[seat]), due, "stake, pay, compensation");
        }
        equal(_withdraw(MODEL_OWNER), 21 * 3 * uint256(p.rate) - 6 * amount, "the rest");
        equal(address(market).balance, market.totalBurned(), "every wei that is not burned is out");
        equal(market.totalBurned(), 1, "the odd one");
        _checkMoney(task);
    }

    function test_too_few_complete_groups_are_paid_without_a_selection() external {
        _open();
        _commitAll();
        _deep();
        for (uint256 g = 0; g < 4; ++g) {
            _postGroup(g);
        }
        _pass();
        _ended(IMarket.Outcome.TooFew, 0x0f);
        market.poke(task);
        _wrongPhase(IMarket.RoundPhase.Idle);
        equal(market.getTask(task).selected, 0, "none selected");
        equal(market.getTask(task).paid, 4 * 3 * uint256(p.rate), "four groups");
        _paidAre(0x0f, 1);
        _checkMoney(task);
    }

    function test_void_rounds_are_not_paid() external {
        _open();
        for (uint256 g = 0; g < 4; ++g) {
            _commitGroup(g);
        }
        _pass();
        _ended(IMarket.Outcome.Void, 0);
        market.poke(task);
        _wrongPhase(IMarket.RoundPhase.Idle);
        equal(market.getTask(task).emptyRounds, 1, "an empty round");
        _paidAre(0, 1);
        _checkMoney(task);
    }

    /// @dev Group 1 has committed but for one, group 5 sits out: neither may be named, or is paid.
    function test_groups_that_did_not_commit_are_not_paid() external {
        address away = _seats()[16];
        _open();
        vm.prank(away);
        market.sitOut(task, ctx);
        for (uint256 g = 0; g < 7; ++g) {
            if (g != 1 && g != 5) _commitGroup(g);
        }
        _commit(3);
        _commit(4);
        _pass();
        market.poke(task);
        _postAll();
        equal(market.getTask(task).complete, 0x5d, "five");
        _bad(0x1e, 4);
        _bad(0x3c, 4);
        _bad(0x5d, 4);
        _select(0x5c);
        _paidAre(0x5d, 1);
        equal(market.getTask(task).slashed, 0, "nobody is slashed");
        _checkMoney(task);
    }

    function test_who_does_not_post_pays_its_mates() external {
        address[] memory seats = _seats();
        _toSelectionWithoutGroup2();
        uint256 amount = 3 * uint256(p.rate);
        equal(market.credits(seats[6]), amount / 2, "half of what one forfeits");
        equal(market.credits(seats[8]), amount / 2, "half of what one forfeits");
        equal(market.getTask(task).slashed, amount, "slashed");
        equal(market.getTask(task).burned, 1, "the odd wei");
        equal(market.getTask(task).short, 0x04, "short of its stake");
        _select(0x3b);
        _open();
        vm.expectRevert(abi.encodeWithSelector(IMarket.StakeTooLow.selector, p.stake, p.stake - amount));
        vm.prank(seats[7]);
        market.commit(task, ctx, 0);
        vm.prank(seats[7]);
        market.restoreStake{value: amount}(task);
        _commitAll();
        _postAll();
        equal(market.getTask(task).complete, 0x7f, "all seven again");
        _select(0x7e);
        uint256[] memory paid = market.getPaidRounds(task);
        for (uint256 g = 0; g < 7; ++g) {
            equal(paid[g], g == 2 ? 1 : 2, "paid");
        }
        _checkMoney(task);
    }

    // ------------------------------------------------------------------ nobody settles

    function test_settle_is_refused() external {
        address[] memory seats = _seats();
        bytes memory wrong = abi.encodeWithSelector(IMarket.WrongPhase.selector, IMarket.RoundPhase.Settle);
        _toSelection();
        bytes memory data = _settleData(0);
        address settler = _settler(0);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongContext.selector, ctx, bytes32("other")));
        market.settle(task, "other", 0, data);
        vm.expectRevert(wrong);
        vm.prank(settler);
        market.settle(task, ctx, 0, data);
        vm.expectRevert(wrong);
        vm.prank(MODEL_OWNER);
        market.settle(task, ctx, 0, data);
        vm.expectRevert(wrong);
        market.settle(task, ctx, 1, "");
        vm.warp(market.getTask(task).phaseEnd); // whatever turn it were is over
        vm.expectRevert(wrong);
        vm.prank(STRANGER);
        market.settle(task, ctx, 0, data);
        _select(0x3f);
        for (uint256 i = 0; i < 21; ++i) {
            equal(market.credits(seats[i]), 0, "nothing for a settle");
        }
        equal(market.credits(STRANGER) + market.credits(MODEL_OWNER), 0, "nor for anybody else");
        equal(market.getTask(task).settlementPaid, 0, "no settlement");
    }

    /// @dev Whatever gas costs and whatever was promised for it.
    function test_the_escrow_is_the_rewards() external {
        vm.fee(1000 gwei);
        uint256 rewards = 3 * 21 * uint256(p.rate);
        p.gasPriceCap = type(uint64).max;
        p.gasTip = type(uint64).max;
        (uint256 reward, uint256 pot) = market.escrowRequired(p);
        equal(reward, rewards, "reward");
        equal(pot, 0, "no pot");
        vm.expectRevert(abi.encodeWithSelector(IMarket.EscrowMismatch.selector, rewards, rewards + 1));
        vm.prank(MODEL_OWNER);
        market.createTask{value: rewards + 1}(p, MODEL_KEY, "{}");
        vm.expectRevert(abi.encodeWithSelector(IMarket.EscrowMismatch.selector, rewards, rewards - 1));
        vm.prank(MODEL_OWNER);
        market.createTask{value: rewards - 1}(p, MODEL_KEY, "{}");
        uint256 before = MODEL_OWNER.balance;
        _start();
        equal(before - MODEL_OWNER.balance, rewards, "escrowed");
        equal(market.getTask(task).escrow, rewards, "escrow");
        _round();
        _round();
        equal(market.getTask(task).settlementPaid, 0, "no settlement");
        vm.warp(vm.getBlockTimestamp() + 100_000);
        market.poke(task);
        equal(market.getTask(task).refunded, rewards / 3, "the round that was not played");
        _checkMoney(task);
    }

    // ------------------------------------------------------------------ a pad for every seat

    function _opens(uint256 pads, uint256 wanted) private {
        bytes32[] memory hashes = new bytes32[](pads);
        for (uint256 i = 0; i < pads; ++i) {
            hashes[i] = keccak256(abi.encode("pad", i));
        }
        uint256 round = uint256(market.getTask(task).round) + 1;
        bytes32 paramsHash = market.getTask(task).paramsHash;
        if (pads != wanted) vm.expectRevert(abi.encodeWithSelector(IMarket.WrongLength.selector, wanted, pads));
        vm.prank(MODEL_OWNER);
        market.openRound(task, round, "model", "key", "hash", 1, hashes, "payload");
        if (pads != wanted) return;
        bytes32 packed = keccak256(abi.encodePacked(hashes));
        bytes32 domain = keccak256("OmniLytics round");
        bytes32 base = keccak256(
            abi.encode(domain, block.chainid, address(market), task, round, paramsHash, bytes32("hash"), 1, bytes32("key"), packed)
        );
        ctx = market.getTask(task).ctx;
        equal(ctx, keccak256(abi.encode(base, bytes32("model"))), "the context binds every pad");
    }

    function test_openRound_wants_a_pad_for_every_seat() external {
        _opens(0, 21);
        _opens(3, 21);
        _opens(20, 21);
        _opens(22, 21);
        _opens(21, 21);
    }

    function test_openRound_wants_a_pad_for_every_position_where_the_contract_selects() external {
        p = _params();
        _start();
        _opens(15, 3);
        _opens(3, 3);
    }

    /// @dev Twenty of twenty-one join: six groups are drawn, and pads are for them. A dissolved group keeps its place.
    function test_pads_are_for_the_groups_drawn_dissolved_ones_too() external {
        p.rounds = 9;
        _create();
        _joinAll(20);
        _pass();
        _revealAll(20);
        _draw();
        equal(market.getTask(task).groupCount, 6, "six groups");
        for (uint256 round = 1; round <= 3; ++round) {
            _opens(21, 18);
            _opens(18, 18);
            for (uint256 g = 1; g < 6; ++g) {
                _commitGroup(g);
            }
            _pass();
            market.poke(task);
            _postAll();
            _select(0x1e);
        }
        address who = _seats()[1];
        vm.prank(who);
        market.leave(task);
        equal(market.getTask(task).dissolved, 1, "dissolved");
        _opens(15, 18);
        _opens(18, 18);
        for (uint256 g = 1; g < 6; ++g) {
            _commitGroup(g);
        }
        _postAll();
        _bad(0x0f, 4); // a dissolved group cannot be named
        _select(0x3c);
        _paidAre(0x3e, 4);
        equal(_withdraw(who), p.stake, "released");
        _checkMoney(task);
    }

    // ------------------------------------------------------------------ what a task may ask for

    function _accepted() private {
        market.escrowRequired(p);
        p = _selecting();
    }

    function _refused(string memory name, uint256 value, uint256 limit) private {
        bytes memory err = abi.encodeWithSelector(IMarket.BadParameter.selector, name, value, limit);
        vm.expectRevert(err);
        market.escrowRequired(p);
        vm.expectRevert(err);
        vm.prank(MODEL_OWNER);
        market.createTask(p, MODEL_KEY, "{}");
        p = _selecting();
    }

    /// @dev The model owner sees the last post final, and answers: depth + 2 blocks, however many chunks and turns there are.
    function test_settleSeconds_are_bound_by_the_depth() external {
        p.settleSeconds = 47;
        _refused("settleSeconds", 47, 48); // 12 * (2 + 2)
        _accepted();
        p.settleSeconds = 30 days;
        _accepted();
        p.settleSeconds = 30 days + 1;
        _refused("settleSeconds", 30 days + 1, 30 days);
        p.turnSeconds = 30 days;
        p.chunkWords = 1;
        _accepted();
        p.turnSeconds = 0;
        _refused("turnSeconds", 0, 1);
        p.depth = 0;
        p.settleSeconds = 24;
        _accepted();
        p.depth = 0;
        p.settleSeconds = 23;
        _refused("settleSeconds", 23, 24);
        p.depth = 255;
        p.commitSeconds = 257 * 12;
        p.postSeconds = 512 * 12;
        p.settleSeconds = 257 * 12;
        _accepted();
        p.depth = 255;
        p.commitSeconds = 257 * 12;
        p.postSeconds = 512 * 12;
        p.settleSeconds = 257 * 12 - 1;
        _refused("settleSeconds", 257 * 12 - 1, 257 * 12);
        // where the contract selects, by chunks and turns, whatever the depth
        p.modelSelection = false;
        p.depth = 0;
        p.settleSeconds = 185;
        _refused("settleSeconds", 185, 186); // 3 * (50 + 12)
        p.modelSelection = false;
        p.settleSeconds = 186;
        _accepted();
    }

    /// @dev Nobody has to put a chunk of every owner into one call.
    function test_chunkWords_are_not_bound_by_calldata() external {
        p.valueCount = 1 << 24; // 1,048,576 words, 17 chunks
        p.chunkWords = type(uint16).max;
        p.postSeconds = 30 days;
        p.modelSelection = false;
        p.settleSeconds = 18 * 62;
        _refused("settle calldata", 260 + 21 * 32 * 65_536, 120_000);
        p.valueCount = 1 << 24;
        p.chunkWords = type(uint16).max;
        p.postSeconds = 30 days;
        (uint256 reward, uint256 pot) = market.escrowRequired(p);
        equal(reward, 3 * 21 * uint256(p.rate), "reward");
        equal(pot, 0, "no pot");
        p.chunkWords = 15; // what stays is that chunks can be counted
        _refused("chunks", 69_906, 65_535);
        p.valueCount = 1 << 24;
        p.chunkWords = 17;
        p.postSeconds = 30 days;
        _accepted();
        p.chunkWords = 0;
        _refused("chunkWords", 0, 1);
    }

    /// @dev 13,440 bytes an owner, in chunks of 240 words: 162,000 bytes of all owners, which no settle call would take.
    function test_large_vectors_are_posted_in_parts() external {
        p.valueCount = 16 * 420;
        p.chunkWords = 240;
        p.postSeconds = 5000;
        _start();
        address[] memory seats = _seats();
        for (uint256 round = 1; round <= 2; ++round) {
            _open();
            _commitAll();
            _deep();
            for (uint256 seat = 0; seat < 21; ++seat) {
                bytes memory vector = _vector(ctx, seat);
                bytes32[] memory links = _links(ctx, seat, vector);
                vm.startPrank(seats[seat]);
                if (seat % 2 == 0) {
                    market.post(task, ctx, 0, _slice(vector, 0, 7_680), links[1]);
                    vm.expectRevert(abi.encodeWithSelector(IMarket.WrongLength.selector, 5_760, 7_680));
                    market.post(task, ctx, 1, _slice(vector, 0, 7_680), links[2]);
                    vm.expectRevert(abi.encodeWithSelector(IMarket.CommitmentMismatch.selector, seats[seat]));
                    market.post(task, ctx, 1, _slice(vector, 7_648, 5_760), links[2]);
                    vm.expectEmit(true, true, true, true);
                    emit IMarket.Posted(task, round, seats[seat], seat, 1, _slice(vector, 7_680, 5_760));
                    market.post(task, ctx, 1, _slice(vector, 7_680, 5_760), links[2]);
                } else {
                    market.post(task, ctx, 0, vector, links[2]);
                }
                vm.stopPrank();
            }
            equal(market.getTask(task).complete, 0x7f, "complete");
            _select(0x7f ^ 1);
        }
        _paidAre(0x7f, 2);
        _checkMoney(task);
    }

    // ------------------------------------------------------------------ the checker

    /// @dev What the market answers through _askChecker is what the checker answers, to the byte: values, BadParameter with its arguments, panics.
    function testFuzz_escrowRequired_is_the_checkers(uint256 seed, uint256 field, uint256 value) external {
        address checker = vm.deployCode("TaskBounds.sol:TaskChecker");
        if (seed % 2 == 0) p = _params();
        bytes memory words = abi.encode(p);
        // one of the 27 words is another, near its bound or far from it
        field = field % 27;
        uint256 old;
        assembly ("memory-safe") {
            old := mload(add(words, add(0x20, shl(5, field))))
        }
        uint256 kind = seed / 2 % 4;
        value = kind == 0 ? old + 1 : kind == 1 ? old - (old == 0 ? 0 : 1) : kind == 2 ? value % 256 : value >> (value % 256);
        assembly ("memory-safe") {
            mstore(add(words, add(0x20, shl(5, field))), value)
        }
        _sameAnswer(checker, bytes.concat(IMarket.escrowRequired.selector, words));
        _sameAnswer(checker, bytes.concat(IMarket.escrowRequired.selector, _slice(words, 0, 32 * field)));
    }

    function testFuzz_settleGas_is_the_checkers(uint256 groups, uint256 groupSize, uint256 words, uint8 laneBits, bool last) external {
        address checker = vm.deployCode("TaskBounds.sol:TaskChecker");
        _sameAnswer(checker, abi.encodeCall(IMarket.settleGas, (groups, groupSize, words, laneBits, last))); // mostly panics
        bytes memory call_ = abi.encodeCall(IMarket.settleGas, (groups % 25, groupSize % 17, words % 300, laneBits, last));
        isTrue(_sameAnswer(checker, call_) == (groups % 25 != 0), "no groups have no pairs: a panic");
    }

    function _sameAnswer(address checker, bytes memory call_) private view returns (bool) {
        (bool ok, bytes memory answer) = address(market).staticcall(call_);
        (bool wantedOk, bytes memory wanted) = checker.staticcall(call_);
        isTrue(ok == wantedOk, "answers where the checker answers");
        equal(keccak256(answer), keccak256(wanted), "the same bytes");
        return ok;
    }
}
