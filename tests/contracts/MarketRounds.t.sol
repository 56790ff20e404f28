// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IMarket} from "@market/IMarket.sol";
import {Naive} from "./Naive.sol";
import {MarketBase} from "./MarketBase.sol";

/// @dev The rounds of a running task. Unhappy paths first, in the order of the requires.
contract MarketRoundsTest is MarketBase {
    bytes32[] internal pads;

    function setUp() public override {
        super.setUp();
        _start();
        pads = _padHashes();
    }

    function _wrongPhase(IMarket.RoundPhase phase) private {
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongPhase.selector, phase));
    }

    function _phaseOver(IMarket.RoundPhase phase) private {
        vm.expectRevert(abi.encodeWithSelector(IMarket.PhaseOver.selector, phase, market.getTask(task).phaseEnd, vm.getBlockTimestamp()));
    }

    function _ended(IMarket.Outcome outcome, uint256 paidGroups) private {
        uint256 count;
        for (uint256 g = 0; g < 24; ++g) {
            count += paidGroups >> g & 1;
        }
        vm.expectEmit(true, true, false, true);
        emit IMarket.RoundEnded(
            task, market.getTask(task).round, outcome, paidGroups, count * 3 * p.rate, vm.getBlockTimestamp() + p.openSeconds
        );
    }

    // ------------------------------------------------------------------ openRound

    function test_openRound_unhappy() external {
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotModelOwner.selector, STRANGER));
        vm.prank(STRANGER);
        market.openRound(task, 1, 0, 0, 0, 1, pads, "");
        vm.startPrank(MODEL_OWNER);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongRound.selector, 1, 2));
        market.openRound(task, 2, 0, 0, 0, 1, pads, "");
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadParameter.selector, "partCount", 0, 1));
        market.openRound(task, 1, 0, 0, 0, 0, pads, "");
        pads.pop();
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongLength.selector, 3, 2));
        market.openRound(task, 1, 0, 0, 0, 1, pads, "");
        vm.stopPrank();
        _open();
        _wrongPhase(IMarket.RoundPhase.Commit);
        vm.prank(MODEL_OWNER);
        market.openRound(task, 2, 0, 0, 0, 1, pads, "");
        _wrongPhase(IMarket.RoundPhase.Commit);
        vm.prank(MODEL_OWNER);
        market.publishPart(task, 2, 0, "part");
    }

    function test_openRound() external {
        vm.prank(MODEL_OWNER);
        market.publishPart(task, 1, 0, "part");
        bytes32 base = keccak256(
            abi.encode(
                keccak256("OmniLytics round"),
                block.chainid,
                address(market),
                task,
                1,
                market.getTask(task).paramsHash,
                bytes32("payload hash"),
                2,
                bytes32("key"),
                keccak256(abi.encodePacked(pads))
            )
        );
        bytes32 wanted = keccak256(abi.encode(base, bytes32("model")));
        vm.expectEmit(true, true, false, true);
        emit IMarket.ModelPart(task, 1, 1, "rest");
        vm.expectEmit(true, true, false, true);
        emit IMarket.RoundOpened(
            task, 1, wanted, base, "model", "key", "payload hash", 2, pads, 31, vm.getBlockTimestamp() + p.commitSeconds
        );
        vm.prank(MODEL_OWNER);
        market.openRound(task, 1, "model", "key", "payload hash", 2, pads, "rest");
        equal(market.getTask(task).ctx, wanted, "ctx");
    }

    // ------------------------------------------------------------------ commit and sitOut

    function test_commit_unhappy() external {
        address[] memory seats = _seats();
        _wrongPhase(IMarket.RoundPhase.Idle);
        market.commit(task, 0, 0);
        _open();
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongContext.selector, ctx, bytes32("other")));
        market.commit(task, "other", 0);
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotMember.selector, STRANGER));
        vm.prank(STRANGER);
        market.commit(task, ctx, 0);
        _commit(0);
        vm.startPrank(seats[0]);
        vm.expectRevert(abi.encodeWithSelector(IMarket.AlreadyCommitted.selector, seats[0]));
        market.commit(task, ctx, "another");
        vm.expectRevert(abi.encodeWithSelector(IMarket.AlreadyCommitted.selector, seats[0]));
        market.sitOut(task, ctx);
        vm.stopPrank();
        vm.startPrank(seats[1]);
        market.sitOut(task, ctx);
        vm.expectRevert(abi.encodeWithSelector(IMarket.AlreadySatOut.selector, seats[1]));
        market.commit(task, ctx, 0);
        vm.expectRevert(abi.encodeWithSelector(IMarket.AlreadySatOut.selector, seats[1]));
        market.sitOut(task, ctx);
        vm.stopPrank();
        vm.expectRevert(abi.encodeWithSelector(IMarket.GroupNotPlaying.selector, 0));
        vm.prank(seats[2]);
        market.commit(task, ctx, 0);
        vm.prank(seats[2]);
        market.sitOut(task, ctx); // a sign of life all the same
        _pass();
        _phaseOver(IMarket.RoundPhase.Commit);
        vm.prank(seats[3]);
        market.commit(task, ctx, 0);
    }

    function test_commit_keeps_the_low_208_bits() external {
        _open();
        bytes32 root = bytes32(type(uint256).max);
        address who = _seats()[4];
        vm.prank(who);
        market.commit(task, ctx, root);
        IMarket.Member[] memory members = market.getMembers(task);
        for (uint256 i = 0; i < members.length; ++i) {
            if (members[i].account == who) {
                equal(uint256(members[i].record), uint256(1) << 224 | uint256(1) << 216 | (1 << 208) - 1, "record");
            }
        }
    }

    function test_the_commit_phase_closes_with_the_last_group() external {
        _open();
        _commitAll();
        IMarket.TaskState memory s = market.getTask(task);
        isTrue(s.phase == IMarket.RoundPhase.Post, "post");
        equal(s.closeBlock, vm.getBlockNumber(), "close block");
        equal(s.phaseEnd, vm.getBlockTimestamp() + p.postSeconds, "post deadline");
        equal(s.committed, 31, "all");
    }

    function test_the_commit_phase_closes_when_the_others_sit_out() external {
        p.faultyGroups = 0;
        _start(); // quorum 3
        _open();
        for (uint256 g = 0; g < 4; ++g) {
            _commitGroup(g);
        }
        isTrue(_phase() == IMarket.RoundPhase.Commit, "waiting for group 4");
        address who = _seats()[13];
        vm.prank(who);
        market.sitOut(task, ctx);
        isTrue(_phase() == IMarket.RoundPhase.Post, "not any more");
        equal(market.getTask(task).committed, 15, "four play");
    }

    function test_void_round() external {
        _open();
        for (uint256 g = 0; g < 4; ++g) {
            _commitGroup(g);
        }
        _commit(12);
        _commit(13);
        _pass();
        _ended(IMarket.Outcome.Void, 0);
        market.poke(task);
        equal(market.getTask(task).emptyRounds, 1, "an empty round");
        equal(market.getTask(task).paid, 0, "nobody is paid");
        equal(market.getTask(task).slashed, 0, "or slashed");
        _round();
        equal(market.getTask(task).emptyRounds, 0, "a paid round resets the count");
    }

    // ------------------------------------------------------------------ post

    function test_post_unhappy() external {
        p.faultyGroups = 0;
        _start();
        address[] memory seats = _seats();
        _wrongPhase(IMarket.RoundPhase.Idle);
        market.post(task, 0, 0, "", 0);
        _open();
        for (uint256 g = 0; g < 4; ++g) {
            _commitGroup(g);
        }
        _commit(12);
        _pass();
        market.poke(task);
        bytes memory vector = _vector(ctx, 0);
        bytes32 terminal = _terminal(0);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongContext.selector, ctx, bytes32("other")));
        market.post(task, "other", 0, vector, terminal);
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotMember.selector, STRANGER));
        vm.prank(STRANGER);
        market.post(task, ctx, 0, vector, terminal);
        vm.expectRevert(abi.encodeWithSelector(IMarket.GroupNotPlaying.selector, 4)); // has committed, but not all of its mates
        vm.prank(seats[12]);
        market.post(task, ctx, 0, vector, terminal);
        vm.startPrank(seats[0]);
        uint256 first = uint256(market.getTask(task).closeBlock) + p.depth;
        vm.roll(first - 1);
        vm.expectRevert(abi.encodeWithSelector(IMarket.TooEarly.selector, first, first - 1));
        market.post(task, ctx, 0, vector, terminal);
        vm.roll(first);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongChunk.selector, 0, 1));
        market.post(task, ctx, 1, vector, terminal);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongLength.selector, 96, 32)); // less than a chunk
        market.post(task, ctx, 0, _slice(vector, 0, 32), terminal);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongLength.selector, 96, 0));
        market.post(task, ctx, 0, "", terminal);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongLength.selector, 96, 192));
        market.post(task, ctx, 0, bytes.concat(vector, vector), terminal);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongLength.selector, 96, 128));
        market.post(task, ctx, 0, bytes.concat(vector, bytes32(0)), terminal);
        vm.expectRevert(abi.encodeWithSelector(IMarket.CommitmentMismatch.selector, seats[0]));
        market.post(task, ctx, 0, vector, "no terminal");
        vector[95] ^= 0x01;
        vm.expectRevert(abi.encodeWithSelector(IMarket.CommitmentMismatch.selector, seats[0]));
        market.post(task, ctx, 0, vector, terminal);
        vector[95] ^= 0x01;
        market.post(task, ctx, 0, vector, terminal);
        vm.expectRevert(abi.encodeWithSelector(IMarket.AlreadyPosted.selector, seats[0]));
        market.post(task, ctx, 0, vector, terminal);
        vm.stopPrank();
        _pass();
        bytes memory late = _vector(ctx, 1);
        bytes32 lateTerminal = _terminal(1);
        _phaseOver(IMarket.RoundPhase.Post);
        vm.prank(seats[1]);
        market.post(task, ctx, 0, late, lateTerminal);
    }

    /// @dev Otherwise its group would count as complete, and nobody could settle the round.
    function test_a_chain_that_ends_elsewhere_cannot_be_posted() external {
        _open();
        bytes memory vector = _vector(ctx, 0);
        bytes32 tag = keccak256(abi.encode(0, ctx, 0));
        bytes32 link = keccak256(bytes.concat(tag, bytes32(uint256(1)), bytes32("elsewhere"), _slice(vector, 64, 32)));
        bytes32 root = keccak256(bytes.concat(tag, bytes32(0), link, _slice(vector, 0, 64)));
        address who = _seats()[0];
        vm.prank(who);
        market.commit(task, ctx, root);
        for (uint256 seat = 1; seat < 15; ++seat) {
            _commit(seat);
        }
        _deep();
        vm.startPrank(who);
        vm.expectRevert(abi.encodeWithSelector(IMarket.CommitmentMismatch.selector, who));
        market.post(task, ctx, 0, vector, "elsewhere");
        market.post(task, ctx, 0, _slice(vector, 0, 64), link); // a first part shows nothing yet
        vm.expectRevert(abi.encodeWithSelector(IMarket.CommitmentMismatch.selector, who));
        market.post(task, ctx, 1, _slice(vector, 64, 32), "elsewhere");
        vm.stopPrank();
    }

    /// @dev A vector of seven words in chunks of two: parts of 1, 2 and 1 chunks.
    function test_post_in_parts() external {
        p.valueCount = 7 * 16;
        p.settleSeconds = 2000;
        _start();
        for (uint256 round = 1; round <= 2; ++round) {
            _open();
            _commitAll();
            _deep();
            address who = _seats()[0];
            bytes memory vector = _vector(ctx, 0);
            bytes32[] memory links = _links(ctx, 0, vector);
            vm.startPrank(who);
            vm.expectRevert(abi.encodeWithSelector(IMarket.CommitmentMismatch.selector, who));
            market.post(task, ctx, 0, _slice(vector, 0, 64), links[2]);
            market.post(task, ctx, 0, _slice(vector, 0, 64), links[1]);
            vm.expectRevert(abi.encodeWithSelector(IMarket.WrongChunk.selector, 1, 0));
            market.post(task, ctx, 0, _slice(vector, 0, 64), links[1]);
            vm.expectRevert(abi.encodeWithSelector(IMarket.WrongChunk.selector, 1, 2));
            market.post(task, ctx, 2, _slice(vector, 128, 96), links[4]);
            vm.expectRevert(abi.encodeWithSelector(IMarket.WrongLength.selector, 160, 32));
            market.post(task, ctx, 1, _slice(vector, 64, 32), links[2]);
            market.post(task, ctx, 1, _slice(vector, 64, 128), links[3]);
            vm.expectRevert(abi.encodeWithSelector(IMarket.CommitmentMismatch.selector, who));
            market.post(task, ctx, 3, _slice(vector, 160, 32), links[4]);
            market.post(task, ctx, 3, _slice(vector, 192, 32), links[4]);
            vm.expectRevert(abi.encodeWithSelector(IMarket.AlreadyPosted.selector, who));
            market.post(task, ctx, 3, _slice(vector, 192, 32), links[4]);
            vm.stopPrank();
            for (uint256 seat = 1; seat < 15; ++seat) {
                _post(seat);
            }
            isTrue(_phase() == IMarket.RoundPhase.Settle, "all complete");
            _settleAll();
        }
        _checkMoney(task);
    }

    /// @dev One mate of group 1 and two of group 2 keep their vectors back; nobody of group 3 posts.
    function test_who_does_not_post_pays_its_mates() external {
        p.faultyGroups = 0;
        p.maxGroups = 7;
        _start();
        _open();
        _commitAll();
        _deep();
        address[] memory seats = _seats();
        for (uint256 seat = 0; seat < 21; ++seat) {
            if (seat == 3 || seat == 6 || seat == 7 || seat / 3 == 3) continue;
            _post(seat);
        }
        isTrue(_phase() == IMarket.RoundPhase.Post, "still waiting");
        _pass();
        market.poke(task);
        isTrue(_phase() == IMarket.RoundPhase.Settle, "settling");
        uint256 amount = 3 * p.rate; // odd: 3e15 + 3
        equal(market.credits(seats[4]), amount / 2, "half of what one forfeits");
        equal(market.credits(seats[5]), amount / 2, "half of what one forfeits");
        equal(market.credits(seats[8]), 2 * amount, "all of what two forfeit");
        equal(market.credits(seats[3]) + market.credits(seats[6]) + market.credits(seats[9]), 0, "nothing for the others");
        IMarket.TaskState memory s = market.getTask(task);
        equal(s.slashed, 6 * amount, "slashed");
        equal(s.compensation, amount / 2 * 2 + 2 * amount, "compensation");
        equal(s.burned, 3 * amount + amount % 2, "burned");
        equal(market.totalBurned(), s.burned, "burned in all");
        equal(s.short, 0x0e, "groups with a member short of its stake");
        equal(s.complete, 0x71, "complete");
        equal(s.committed, 0x7f, "committed");
        _checkMoney(task);
        _settleAll();
        _checkMoney(task);

        // out until the stake is restored
        _open();
        vm.expectRevert(abi.encodeWithSelector(IMarket.StakeTooLow.selector, p.stake, p.stake - amount));
        vm.prank(seats[3]);
        market.commit(task, ctx, 0);
        vm.expectRevert(abi.encodeWithSelector(IMarket.GroupNotPlaying.selector, 1));
        vm.prank(seats[4]);
        market.commit(task, ctx, 0);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStake.selector, amount, amount - 1));
        vm.prank(seats[3]);
        market.restoreStake{value: amount - 1}(task);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStake.selector, 0, 0));
        vm.prank(seats[4]);
        market.restoreStake(task);
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotMember.selector, STRANGER));
        vm.prank(STRANGER);
        market.restoreStake(task);
        vm.prank(seats[3]);
        market.restoreStake{value: amount}(task);
        vm.prank(seats[6]);
        market.restoreStake{value: amount}(task);
        equal(market.getTask(task).short, 0x0c, "group 1 is whole again, group 2 still lacks one");
        _commitGroup(1);
        _checkMoney(task);
    }

    function test_too_few_complete_groups_are_paid_without_selection() external {
        _open();
        _commitAll();
        _deep();
        for (uint256 seat = 0; seat < 14; ++seat) {
            _post(seat);
        }
        _pass();
        _ended(IMarket.Outcome.TooFew, 15);
        market.poke(task);
        equal(market.getTask(task).selected, 0, "none selected");
        uint256 got = _withdraw(_seats()[0]);
        equal(got, p.rate, "paid");
        _checkMoney(task);
    }

    // ------------------------------------------------------------------ settle

    function test_settle_unhappy() external {
        _wrongPhase(IMarket.RoundPhase.Idle);
        market.settle(task, 0, 0, "");
        _open();
        _commitAll();
        _postAll();
        bytes memory data = _settleData(0);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongContext.selector, ctx, bytes32("other")));
        market.settle(task, "other", 0, data);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongChunk.selector, 0, 1));
        market.settle(task, ctx, 1, data);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongLength.selector, 15 * 96, 15 * 96 + 32));
        market.settle(task, ctx, 0, bytes.concat(data, bytes32(0)));
        address settler = _settler(0);
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotYourTurn.selector, settler, vm.getBlockTimestamp() + p.turnSeconds));
        vm.prank(STRANGER);
        market.settle(task, ctx, 0, data);
        for (uint256 i = 0; i < data.length; i += 32) {
            // in every owner's next link and in every word
            data[i] ^= 0x80;
            vm.expectRevert(abi.encodeWithSelector(IMarket.BadChunkProof.selector, 0));
            vm.prank(settler);
            market.settle(task, ctx, 0, data);
            data[i] ^= 0x80;
        }
        vm.prank(settler);
        market.settle(task, ctx, 0, data);

        data = _settleData(1);
        settler = _settler(1);
        for (uint256 i = 0; i < data.length; i += 32) {
            data[i] ^= 0x80;
            vm.expectRevert(abi.encodeWithSelector(IMarket.BadChunkProof.selector, 1));
            vm.prank(settler);
            market.settle(task, ctx, 1, data);
            data[i] ^= 0x80;
        }
        vm.warp(market.getTask(task).turnEnd + 1);
        vm.prank(STRANGER); // the turn is over: anyone
        market.settle(task, ctx, 1, data);
        isTrue(_phase() == IMarket.RoundPhase.Idle, "the round is over");
        isTrue(market.credits(STRANGER) != 0, "and the stranger reimbursed");
        _wrongPhase(IMarket.RoundPhase.Idle);
        market.settle(task, ctx, 1, data);
    }

    /// @dev An owner whose chain does not end in the terminal can post nothing, so this needs data of another seat or round.
    function test_settle_refuses_another_seats_data() external {
        _open();
        _commitAll();
        _postAll();
        bytes memory data = _settleData(0);
        bytes memory swapped = bytes.concat(_slice(data, 96, 96), _slice(data, 0, 96), _slice(data, 192, data.length - 192));
        address settler = _settler(0);
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadChunkProof.selector, 0));
        vm.prank(settler);
        market.settle(task, ctx, 0, swapped);
    }

    function testFuzz_settle_selects_as_the_naive_reference(uint256 seed, uint8 width, uint8 missing) external {
        p.laneBits = uint8(8 << (width % 3));
        p.maxMagnitude = 10;
        p.faultyGroups = uint8(seed / 2 % 2);
        p.maxGroups = 6;
        p.strictSelection = seed % 2 == 0;
        _start();
        _open();
        missing %= 8; // one of the groups may sit out
        if (missing < 6) {
            address away = _seats()[missing * 3];
            vm.prank(away);
            market.sitOut(task, ctx);
        }
        for (uint256 g = 0; g < 6; ++g) {
            if (g != missing) _commitGroup(g);
        }
        _postAll();
        _settle(0);
        uint256 complete = missing < 6 ? 0x3f & ~(1 << missing) : 0x3f;
        equal(market.getTask(task).complete, complete, "complete");
        uint256 count = missing < 6 ? 5 : 6;
        (uint256[] memory distances, uint256 selected) = _reference(complete, count);
        for (uint256 chunk = 1; chunk + 1 < _chunks(); ++chunk) {
            _settle(chunk);
        }
        if (_chunks() > 1) {
            bytes memory data = _settleData(_chunks() - 1);
            address settler = _settler(_chunks() - 1);
            uint256 chunk = _chunks() - 1;
            vm.expectEmit(true, true, false, true);
            emit IMarket.KrumSelected(task, 1, complete, selected, distances);
            vm.prank(settler);
            market.settle(task, ctx, chunk, data);
        }
        equal(market.getTask(task).selected, selected, "selected");
        uint256[] memory paid = market.getPaidRounds(task);
        for (uint256 g = 0; g < 6; ++g) {
            equal(paid[g], selected >> g & 1, "paid as selected");
        }
        _checkMoney(task);
    }

    function _reference(uint256 complete, uint256 count) private view returns (uint256[] memory distances, uint256 selected) {
        bytes[] memory vectors = new bytes[](count * 3);
        uint256 next = 0;
        for (uint256 seat = 0; seat < 18; ++seat) {
            if (complete >> (seat / 3) & 1 == 1) vectors[next++] = _vector(ctx, seat);
        }
        distances = Naive.distances(vectors, 3, p.laneBits);
        uint256 winners = Naive.krum(distances, count, count - p.faultyGroups - 2, count - p.faultyGroups - (p.strictSelection ? 2 : 0));
        for (uint256 g = 0; g < 6; ++g) {
            if (complete >> g & 1 == 0) continue;
            selected |= (winners & 1) << g;
            winners >>= 1;
        }
    }

    function test_late_settlement_pays_all_complete_groups() external {
        _open();
        _commitAll();
        _postAll();
        _settle(0);
        bytes memory data = _settleData(1);
        _pass();
        _phaseOver(IMarket.RoundPhase.Settle);
        market.settle(task, ctx, 1, data);
        _ended(IMarket.Outcome.Late, 31);
        market.poke(task);
        equal(market.getTask(task).paid, 15 * uint256(p.rate), "all are paid");
        _checkMoney(task);
        _round(); // totals of the unfinished settlement are overwritten
        _checkMoney(task);
    }

    function test_settlement_is_reimbursed_at_the_capped_price() external {
        vm.fee(5 gwei);
        _open();
        _commitAll();
        _postAll();
        address first = _settler(0);
        _settle(0);
        equal(market.credits(first), 6 gwei * market.settleGas(5, 3, 2, 16, false), "base fee and tip");
        vm.fee(500 gwei);
        address second = _settler(1);
        _settle(1);
        equal(market.credits(second), 20 gwei * market.settleGas(5, 3, 1, 16, true), "the cap");
        equal(market.getTask(task).settlementPaid, market.credits(first) + market.credits(second), "booked");
    }

    // ------------------------------------------------------------------ leaving, expelling

    function test_leave_a_group_that_does_not_play() external {
        p.rounds = 20;
        p.maxGroups = 6;
        _start();
        address[] memory seats = _seats();
        vm.expectRevert(abi.encodeWithSelector(IMarket.StillAlive.selector, seats[1], 0, 2));
        vm.prank(seats[1]);
        market.leave(task);
        for (uint256 round = 1; round <= 3; ++round) {
            _open();
            vm.prank(seats[0]);
            market.sitOut(task, ctx);
            vm.expectRevert(abi.encodeWithSelector(IMarket.StillAlive.selector, seats[1], round - 1, 2));
            vm.prank(seats[1]);
            market.leave(task);
            for (uint256 g = 1; g < 6; ++g) {
                _commitGroup(g);
            }
            _postAll();
            _settleAll();
        }
        vm.expectRevert(abi.encodeWithSelector(IMarket.StillAlive.selector, seats[3], 0, 2));
        vm.prank(seats[3]);
        market.leave(task);
        vm.prank(seats[1]);
        market.leave(task);
        equal(market.getTask(task).dissolved, 1, "dissolved");
        for (uint256 seat = 0; seat < 3; ++seat) {
            equal(_withdraw(seats[seat]), p.stake, "stakes are back");
        }
        vm.expectRevert(abi.encodeWithSelector(IMarket.GroupNotPlaying.selector, 0));
        vm.prank(seats[0]);
        market.leave(task);
        _open();
        for (uint256 g = 1; g < 6; ++g) {
            _commitGroup(g);
        }
        isTrue(_phase() == IMarket.RoundPhase.Post, "nobody waits for group 0");
        _checkMoney(task);
    }

    function test_nobody_leaves_between_full_commitment_and_the_end_of_the_round() external {
        p.rounds = 20;
        p.maxGroups = 6;
        _start();
        address[] memory seats = _seats();
        for (uint256 round = 1; round <= 3; ++round) {
            _open();
            vm.prank(seats[0]);
            market.sitOut(task, ctx);
            for (uint256 g = 1; g < 6; ++g) {
                _commitGroup(g);
            }
            _postAll();
            _settleAll();
        }
        _open();
        _commitGroup(0);
        _wrongPhase(IMarket.RoundPhase.Commit);
        vm.prank(seats[1]);
        market.leave(task);
        for (uint256 g = 1; g < 6; ++g) {
            _commitGroup(g);
        }
        _wrongPhase(IMarket.RoundPhase.Post);
        vm.prank(seats[1]);
        market.leave(task);
        _wrongPhase(IMarket.RoundPhase.Post);
        market.expel(task, seats[1]);
    }

    function test_expel_the_dead() external {
        p.rounds = 20;
        p.maxGroups = 6;
        _start();
        address[] memory seats = _seats();
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotMember.selector, STRANGER));
        market.expel(task, STRANGER);
        for (uint256 round = 1; round <= 3; ++round) {
            vm.expectRevert(abi.encodeWithSelector(IMarket.StillAlive.selector, seats[0], round - 1, 2));
            market.expel(task, seats[0]);
            _open();
            _commit(1); // seat 1 shows that it lives, seat 0 does not, seat 2 does by sitting out
            vm.prank(seats[2]);
            market.sitOut(task, ctx);
            for (uint256 g = 1; g < 6; ++g) {
                _commitGroup(g);
            }
            _postAll();
            _settleAll();
        }
        vm.expectRevert(abi.encodeWithSelector(IMarket.StillAlive.selector, seats[1], 0, 2));
        market.expel(task, seats[1]);
        vm.expectRevert(abi.encodeWithSelector(IMarket.StillAlive.selector, seats[2], 0, 2));
        market.expel(task, seats[2]);
        vm.prank(STRANGER);
        market.expel(task, seats[0]);
        equal(market.getTask(task).burned, p.deposit, "its deposit is burned");
        equal(_withdraw(seats[0]), p.stake - p.deposit, "the rest is not");
        equal(_withdraw(seats[1]), p.stake, "mates are released");
        vm.expectRevert(abi.encodeWithSelector(IMarket.GroupNotPlaying.selector, 0));
        market.expel(task, seats[0]);
        _checkMoney(task);
    }

    function test_a_sign_of_life_may_come_late_and_changes_nothing_else() external {
        p.rounds = 20;
        p.maxGroups = 6;
        _start();
        address[] memory seats = _seats();
        for (uint256 round = 1; round <= 4; ++round) {
            _open();
            // Two mates sit out first: the phase closes before the third could say anything.
            vm.prank(seats[0]);
            market.sitOut(task, ctx);
            vm.prank(seats[1]);
            market.sitOut(task, ctx);
            for (uint256 g = 1; g < 6; ++g) {
                _commitGroup(g);
            }
            isTrue(_phase() == IMarket.RoundPhase.Post, "closed");
            IMarket.TaskState memory before = market.getTask(task);
            vm.prank(STRANGER);
            vm.expectRevert(abi.encodeWithSelector(IMarket.NotMember.selector, STRANGER));
            market.sitOut(task, ctx);
            vm.prank(seats[2]);
            vm.expectRevert(abi.encodeWithSelector(IMarket.WrongContext.selector, ctx, bytes32("other")));
            market.sitOut(task, "other");
            // who has committed is alive, and must post
            vm.prank(seats[3]);
            vm.expectRevert(abi.encodeWithSelector(IMarket.AlreadyCommitted.selector, seats[3]));
            market.sitOut(task, ctx);
            if (round % 2 == 0) _postAll();
            if (round == 4) _settleAll();
            vm.prank(seats[2]);
            market.sitOut(task, ctx);
            vm.prank(seats[2]);
            vm.expectRevert(abi.encodeWithSelector(IMarket.AlreadySatOut.selector, seats[2]));
            market.sitOut(task, ctx);
            equal(market.getTask(task).satOut, before.satOut, "satOut");
            equal(market.getTask(task).committed, before.committed, "committed");
            if (round % 2 == 1) _postAll();
            if (round != 4) _settleAll();
            equal(market.getTask(task).complete, before.committed, "everybody else posted and was settled");
        }
        vm.expectRevert(abi.encodeWithSelector(IMarket.StillAlive.selector, seats[2], 0, 2));
        market.expel(task, seats[2]);
        _checkMoney(task);
    }

    function test_dissolving_can_close_the_commit_phase_and_end_the_task() external {
        p.rounds = 20;
        p.maxEmptyRounds = 10;
        uint256 others = address(market).balance;
        _start(); // 5 groups, and 5 are needed
        address[] memory seats = _seats();
        for (uint256 round = 1; round <= 3; ++round) {
            _open();
            vm.prank(seats[0]);
            market.sitOut(task, ctx);
            _pass();
            market.poke(task);
        }
        _open();
        for (uint256 g = 1; g < 5; ++g) {
            _commitGroup(g);
        }
        vm.prank(seats[2]);
        market.leave(task);
        isTrue(_status() == IMarket.TaskStatus.Ended, "four groups cannot tolerate a faulty one");
        _checkMoney(task);
        for (uint256 i = 0; i < 15; ++i) {
            equal(_withdraw(seats[i]), p.stake, "stakes are back");
        }
        _withdraw(MODEL_OWNER);
        equal(address(market).balance, others, "all gone");
    }

    // ------------------------------------------------------------------ the end

    function test_a_whole_task() external {
        for (uint256 round = 1; round <= 3; ++round) {
            _round();
            _checkMoney(task);
        }
        isTrue(_status() == IMarket.TaskStatus.Ended, "ended");
        address[] memory seats = _seats();
        uint256[] memory paid = market.getPaidRounds(task);
        uint256 total = 0;
        for (uint256 g = 0; g < 5; ++g) {
            total += paid[g];
        }
        equal(total, 12, "four of five groups, three times");
        for (uint256 seat = 0; seat < 15; ++seat) {
            uint256 credit = market.credits(seats[seat]);
            uint256 wanted = paid[seat / 3] * p.rate + p.stake + credit;
            equal(market.withdrawable(seats[seat], _ids()), wanted, "withdrawable");
            equal(_withdraw(seats[seat]), wanted, "withdrawn");
            vm.expectRevert(abi.encodeWithSelector(IMarket.NothingToWithdraw.selector));
            vm.prank(seats[seat]);
            market.withdraw(_ids(), payable(STRANGER));
        }
        _withdraw(MODEL_OWNER);
        equal(address(market).balance, 0, "every wei is out");
        _checkMoney(task);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStatus.selector, IMarket.TaskStatus.Ended));
        vm.prank(MODEL_OWNER);
        market.openRound(task, 4, 0, 0, 0, 1, pads, "");
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStatus.selector, IMarket.TaskStatus.Ended));
        market.commit(task, ctx, 0);
    }

    function test_a_silent_model_owner_ends_the_task() external {
        _round();
        vm.warp(uint256(market.getTask(task).phaseEnd) + 2 * p.openSeconds); // two openings missed
        market.poke(task);
        isTrue(_status() == IMarket.TaskStatus.Running, "not yet");
        vm.warp(vm.getBlockTimestamp() + 1); // and the third
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStatus.selector, IMarket.TaskStatus.Ended));
        vm.prank(MODEL_OWNER);
        market.openRound(task, 2, 0, 0, 0, 1, pads, "");
        address someone = _seats()[7];
        uint256 pay = market.getPaidRounds(task)[2] * p.rate + market.credits(someone);
        equal(_withdraw(someone), p.stake + pay, "withdraw ends the task on its way");
        isTrue(_status() == IMarket.TaskStatus.Ended, "ended");
        _checkMoney(task);
    }

    function test_opening_late_counts_as_empty_rounds() external {
        vm.warp(uint256(market.getTask(task).phaseEnd) + 2 * p.openSeconds);
        _open();
        equal(market.getTask(task).emptyRounds, 2, "two openings missed");
        _pass();
        market.poke(task);
        isTrue(_status() == IMarket.TaskStatus.Ended, "and a void round: three");
    }

    function test_void_rounds_end_the_task() external {
        for (uint256 i = 0; i < 3; ++i) {
            _open();
            _pass();
            market.poke(task);
        }
        isTrue(_status() == IMarket.TaskStatus.Ended, "ended");
        equal(market.getTask(task).refunded, market.getTask(task).escrow, "all refunded");
    }

    function test_a_round_that_nobody_can_play_is_void_at_once() external {
        p.maxEmptyRounds = 9;
        p.rounds = 9;
        _start();
        _open();
        _commitAll();
        _pass();
        market.poke(task); // nobody posted: all are slashed
        isTrue(_phase() == IMarket.RoundPhase.Idle, "too few");
        equal(market.getTask(task).short, 31, "all short");
        _open();
        isTrue(_phase() == IMarket.RoundPhase.Idle, "void at once");
        equal(market.getTask(task).round, 2, "second round");
        equal(market.getTask(task).emptyRounds, 2, "empty rounds");
    }
}
