// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IMarket} from "@market/IMarket.sol";
import {TaskChecker} from "@market/TaskBounds.sol";
import {MarketBase} from "./MarketBase.sol";

/// @dev The last second, block, wei and word on either side of a limit: what the mutation run showed to be unsaid elsewhere.
contract MarketEdgesTest is MarketBase {
    bytes32[] internal noProof;

    // ------------------------------------------------------------------ bounds of parameters

    function _accepted() private {
        market.escrowRequired(p);
        p = _params();
    }

    function _refused(string memory name, uint256 value, uint256 limit) private {
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadParameter.selector, name, value, limit));
        market.escrowRequired(p);
        p = _params();
    }

    function test_least_parameters_are_accepted() external {
        p.groupSize = 3;
        p.maxGroups = 5; // 2f + 3
        p.maxMagnitude = 1;
        p.valueCount = 1;
        p.chunkWords = 1;
        p.rounds = 1;
        p.maxEmptyRounds = 1;
        p.maxMissedRounds = 1;
        p.depth = 0;
        p.blockSeconds = 1;
        p.joinSeconds = 1;
        p.revealSeconds = 1;
        p.openSeconds = 1;
        p.commitSeconds = 2; // depth + 2 blocks
        p.postSeconds = 2; // one block, and one for the posts
        p.turnSeconds = 1;
        p.settleSeconds = 4; // two turns of a second, and a block for each
        p.rate = 1;
        p.deposit = 0;
        p.stake = 3;
        p.gasTip = 0;
        p.gasPriceCap = 0;
        (uint256 reward, uint256 pot) = market.escrowRequired(p);
        equal(reward, 15, "reward");
        equal(pot, 0, "pot");
        p.stake = 2;
        _refused("stake", 2, 3);
    }

    function test_largest_parameters_are_accepted() external {
        p.groupSize = 16;
        p.maxGroups = 8; // 128 seats
        p.maxMagnitude = 1023; // 16 * 1023 < 2^14
        p.stake = 2e16;
        p.chunkWords = 1;
        _accepted();
        p.maxGroups = 24;
        p.faultyGroups = 10;
        _accepted();
        p.maxMagnitude = 5461;
        _accepted();
        p.maxMagnitude = 1024;
        p.groupSize = 16;
        _refused("maxMagnitude", 1024, 1023);
        p.laneBits = 8;
        p.maxMagnitude = 21; // 3 * 21 < 2^6
        _accepted();
        p.laneBits = 32;
        p.maxMagnitude = ((1 << 30) - 1) / 3;
        _accepted();
        p.joinSeconds = 30 days;
        p.revealSeconds = 30 days;
        p.openSeconds = 30 days;
        p.commitSeconds = 30 days;
        p.postSeconds = 30 days;
        p.settleSeconds = 30 days;
        _accepted();
        p.rounds = type(uint16).max;
        p.maxEmptyRounds = type(uint8).max;
        p.maxMissedRounds = type(uint8).max;
        p.gasTip = 20 gwei;
        _accepted();
        p.blockSeconds = 3600;
        p.revealSeconds = 3600;
        p.commitSeconds = 4 * 3600;
        p.postSeconds = 6 * 3600;
        p.settleSeconds = 3 * 3650;
        _accepted();
        p.depth = 255;
        p.commitSeconds = 257 * 12;
        p.postSeconds = 512 * 12;
        _accepted();
    }

    function test_parameters_over_their_bounds_are_refused() external {
        p.blockSeconds = 3601;
        _refused("blockSeconds", 3601, 3600);
        p.revealSeconds = 30 days + 1;
        _refused("revealSeconds", 30 days + 1, 30 days);
        p.openSeconds = 30 days + 1;
        _refused("openSeconds", 30 days + 1, 30 days);
        p.commitSeconds = 30 days + 1;
        _refused("commitSeconds", 30 days + 1, 30 days);
        p.postSeconds = 30 days + 1;
        _refused("postSeconds", 30 days + 1, 30 days);
        p.turnSeconds = 30 days + 1;
        _refused("turnSeconds", 30 days + 1, 30 days);
        p.settleSeconds = 30 days + 1;
        _refused("settleSeconds", 30 days + 1, 30 days);
        p.faultyGroups = 11;
        p.maxGroups = 24;
        _refused("maxGroups", 24, 25);
        p.depth = 255;
        p.commitSeconds = 257 * 12 - 1;
        _refused("commitSeconds", 257 * 12 - 1, 257 * 12);
        p.depth = 255;
        p.commitSeconds = 257 * 12;
        p.postSeconds = 512 * 12 - 1;
        _refused("postSeconds", 512 * 12 - 1, 512 * 12);
    }

    /// @dev Posts get a quarter of a block's gas: 40 gas a byte, and 120,000 for each post of at most 100,000 bytes.
    function test_the_time_to_post_counts_the_bytes() external {
        p.valueCount = 16 * 6251; // 200,032 bytes: three posts an owner
        p.chunkWords = 200;
        p.settleSeconds = 33 * 62;
        uint256 gas_ = 15 * (40 * 200_032 + 3 * 120_000);
        uint256 blocks = (gas_ + 15_000_000) / 15_000_001; // of 60,000,000 gas or more
        p.postSeconds = uint32(12 * (5 + blocks)) - 1;
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadParameter.selector, "postSeconds", 12 * (5 + blocks) - 1, 12 * (5 + blocks)));
        market.escrowRequired(p);
        p.postSeconds += 1;
        p.settleSeconds -= 1;
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadParameter.selector, "settleSeconds", 33 * 62 - 1, 33 * 62));
        market.escrowRequired(p);
        p.settleSeconds += 1;
        (, uint256 pot) = market.escrowRequired(p);
        // 31 chunks of 200 words and one of 51
        equal(pot, 3 * 20 gwei * (31 * market.settleGas(5, 3, 200, 16, false) + market.settleGas(5, 3, 51, 16, true)), "pot");
    }

    /// @dev 72,000 bytes from each of 15 owners are 3 gas short of three quarters of a block; a word more, and it takes a fourth.
    function test_the_time_to_post_to_the_word() external {
        p.chunkWords = 200;
        p.settleSeconds = 5000;
        p.valueCount = 16 * 2250;
        p.postSeconds = 12 * (5 + 3);
        market.escrowRequired(p);
        p.valueCount += 1;
        _refused("postSeconds", 12 * (5 + 3), 12 * (5 + 4));
    }

    function test_settle_calldata_bound_to_the_byte() external {
        p.valueCount = 16 * 300;
        p.postSeconds = 5000;
        p.chunkWords = 248; // 260 + 15 * 32 * 249 = 119,780
        market.escrowRequired(p);
        p.chunkWords = 249;
        _refused("settle calldata", 120_260, 120_000);
    }

    /// @dev The formula, worked out apart.
    function test_settleGas_is_what_it_is() external view {
        equal(market.settleGas(3, 3, 1, 8, false), 200_755, "3 groups");
        equal(market.settleGas(5, 3, 2, 16, true), 325_100, "5 groups, last");
        equal(market.settleGas(10, 5, 32, 32, false), 2_454_460, "10 groups");
        equal(market.settleGas(24, 5, 28, 16, true), 7_901_148, "24 groups, last");
        equal(market.settleGas(3, 3, 150, 8, false), 1_770_920, "calldata floor");
        equal(market.settleGas(3, 16, 70, 8, true), 4_393_640, "calldata floor, last");
    }

    /// @dev Of five groups whose sums lie close together, all, then all but one, and so on. One group that lies elsewhere makes four pairs
    /// dear, two make seven. From three on, the block is done as a whole, and costs no more. A chunk of two words is one block.
    function test_reimbursed_is_what_the_vectors_made_it_cost() external {
        TaskChecker checker = TaskChecker(vm.deployCode("TaskBounds.sol:TaskChecker"));
        uint256[6] memory farPairs = [uint256(7), 7, 7, 7, 4, 0];
        p.rounds = 6;
        _start();
        for (nearGroups = 0; nearGroups <= 5; ++nearGroups) {
            _open();
            _commitAll();
            _postAll();
            uint256 before = market.getTask(task).settlementPaid;
            _settle(0);
            uint256 between = market.getTask(task).settlementPaid;
            equal(between - before, 2 gwei * checker.callGas(5, 3, 2, 16, false, farPairs[nearGroups]), "the first chunk");
            _settle(1);
            equal(
                market.getTask(task).settlementPaid - between,
                2 gwei * checker.callGas(5, 3, 1, 16, true, farPairs[nearGroups]),
                "the last chunk"
            );
            if (nearGroups == 0) equal(between - before, 2 gwei * market.settleGas(5, 3, 2, 16, false), "all that the pot holds");
        }
        _checkMoney(task);
    }

    /// @dev The pot holds the dearest vectors of all.
    function testFuzz_the_pot_holds_any_vectors(uint256 groups, uint256 words, uint256 farGroups, bool last) external {
        TaskChecker checker = TaskChecker(vm.deployCode("TaskBounds.sol:TaskChecker"));
        groups = bound(groups, 3, 24);
        words = bound(words, 1, 300);
        farGroups = bound(farGroups, 0, groups / 2);
        uint256 farPairs = (words + 3) / 4 * (groups * (groups - 1) / 2 - (groups - farGroups) * (groups - farGroups - 1) / 2);
        isTrue(checker.callGas(groups, 3, words, 16, last, farPairs) <= market.settleGas(groups, 3, words, 16, last), "in the pot");
        if (farGroups == groups / 2) {
            equal(checker.callGas(groups, 3, words, 16, last, farPairs), market.settleGas(groups, 3, words, 16, last), "and no more");
        }
    }

    // ------------------------------------------------------------------ the last second

    /// @dev Everything that is allowed up to a deadline is allowed in its last second.
    function test_the_last_second_still_counts() external {
        p.faultyGroups = 0;
        p.maxGroups = 6;
        _create();
        _joinAll(16);
        vm.warp(market.getTask(task).phaseEnd);
        _join(_owner(16));
        vm.warp(uint256(market.getTask(task).phaseEnd) + 1);
        _reveal(_owner(0)); // closes joining
        for (uint256 i = 1; i < 15; ++i) {
            _reveal(_owner(i));
        }
        vm.warp(market.getTask(task).phaseEnd);
        _reveal(_owner(15));
        vm.warp(uint256(market.getTask(task).phaseEnd) + 1);
        market.poke(task); // owner 16 kept its nonce back
        _draw();
        equal(market.getTask(task).groupCount, 5, "groups");
        equal(market.getTask(task).closeBlock, 0, "the draw block is no close block");
        vm.warp(market.getTask(task).phaseEnd);
        _open();
        equal(market.getTask(task).emptyRounds, 0, "opened in time");
        for (uint256 g = 0; g < 3; ++g) {
            _commitGroup(g);
        }
        vm.warp(market.getTask(task).phaseEnd);
        _commitGroup(3);
        vm.warp(uint256(market.getTask(task).phaseEnd) + 1);
        market.poke(task);
        _deep();
        for (uint256 g = 0; g < 3; ++g) {
            _postGroup(g);
        }
        vm.warp(market.getTask(task).phaseEnd);
        _postGroup(3);
        _settle(0);
        uint256 turnEnd = market.getTask(task).turnEnd;
        equal(turnEnd, vm.getBlockTimestamp() + p.turnSeconds, "the next turn counts from now");
        bytes memory data = _settleData(1);
        address settler = _settler(1);
        vm.warp(turnEnd);
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotYourTurn.selector, settler, turnEnd));
        vm.prank(STRANGER);
        market.settle(task, ctx, 1, data);
        vm.warp(market.getTask(task).phaseEnd);
        vm.prank(STRANGER);
        market.settle(task, ctx, 1, data);
        isTrue(market.getTask(task).selected != 0, "settled in the last second");
    }

    function test_an_opening_is_missed_a_second_late() external {
        _start();
        vm.warp(uint256(market.getTask(task).phaseEnd) + 1);
        _open();
        equal(market.getTask(task).emptyRounds, 1, "one");
    }

    function test_an_opening_is_missed_once_up_to_the_next_deadline() external {
        _start();
        vm.warp(uint256(market.getTask(task).phaseEnd) + p.openSeconds);
        _open();
        equal(market.getTask(task).emptyRounds, 1, "still one");
    }

    // ------------------------------------------------------------------ status

    function test_joining_after_its_time() external {
        p.maxGroups = 6;
        _create();
        _joinAll(15);
        _pass();
        vm.deal(STRANGER, 1e18);
        vm.startPrank(STRANGER);
        // not full, but closed
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStatus.selector, IMarket.TaskStatus.Revealing));
        market.join{value: p.stake}(task, _boxKey(STRANGER), 0, noProof);
        vm.stopPrank();
        market.poke(task);
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStatus.selector, IMarket.TaskStatus.Revealing));
        market.join{value: p.stake}(task, _boxKey(STRANGER), 0, noProof);
        p = _params();
        _start(); // full, but long past revealing
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStatus.selector, IMarket.TaskStatus.Running));
        market.join{value: p.stake}(task, _boxKey(STRANGER), 0, noProof);
    }

    /// @dev Otherwise a deposit could be burned, or a stake taken in, when all is over.
    function test_nothing_moves_after_the_end() external {
        p.maxMissedRounds = 1;
        p.maxEmptyRounds = 200;
        p.rounds = 2;
        _start();
        address[] memory seats = _seats();
        _open();
        _commitAll();
        _deep();
        for (uint256 seat = 1; seat < 15; ++seat) {
            _post(seat);
        }
        _pass();
        _open();
        _pass();
        market.poke(task);
        isTrue(_status() == IMarket.TaskStatus.Ended, "ended");
        bytes memory ended = abi.encodeWithSelector(IMarket.WrongStatus.selector, IMarket.TaskStatus.Ended);
        vm.expectRevert(ended);
        market.expel(task, seats[5]);
        vm.expectRevert(ended);
        vm.prank(seats[5]);
        market.leave(task);
        uint256 missing = 3 * p.rate;
        vm.expectRevert(ended);
        vm.prank(seats[0]);
        market.restoreStake{value: missing}(task);
        vm.expectRevert(ended);
        vm.prank(seats[0]);
        market.reveal(task, 0);
        IMarket.TaskState memory s = market.getTask(task);
        market.poke(task);
        equal(keccak256(abi.encode(market.getTask(task))), keccak256(abi.encode(s)), "a poke changes nothing");
        _checkMoney(task);
    }

    function test_a_group_that_sat_out_plays_again() external {
        p.faultyGroups = 0;
        p.maxMissedRounds = 1;
        p.rounds = 9;
        _start();
        address who = _seats()[0];
        for (uint256 round = 1; round <= 2; ++round) {
            _open();
            if (round == 1) {
                vm.prank(who);
                market.sitOut(task, ctx);
            } else {
                equal(market.getTask(task).satOut, 0, "a new round");
                _commitGroup(0);
            }
            for (uint256 g = 1; g < 5; ++g) {
                _commitGroup(g);
            }
            _postAll();
            _settleAll();
        }
        equal(market.getTask(task).complete, 31, "all");
        vm.expectRevert(abi.encodeWithSelector(IMarket.StillAlive.selector, who, 0, 1));
        vm.prank(who);
        market.leave(task);
    }

    /// @dev Rounds missed: exactly as many as allowed are not enough, the open one does not count, later phases do.
    function test_rounds_missed_are_counted_to_the_round() external {
        p.faultyGroups = 0;
        p.rounds = 20;
        _start();
        address[] memory seats = _seats();
        for (uint256 round = 1; round <= 3; ++round) {
            _open();
            vm.expectRevert(abi.encodeWithSelector(IMarket.StillAlive.selector, seats[0], round - 1, 2));
            market.expel(task, seats[0]);
            for (uint256 g = 1; g < 5; ++g) {
                _commitGroup(g);
            }
            _pass();
            market.poke(task);
            isTrue(_phase() == IMarket.RoundPhase.Post, "post");
            if (round < 3) {
                vm.expectRevert(abi.encodeWithSelector(IMarket.StillAlive.selector, seats[0], round, 2));
                market.expel(task, seats[0]);
                _postAll();
                _settleAll();
            }
        }
        market.expel(task, seats[0]); // while the others may post
        isTrue(_phase() == IMarket.RoundPhase.Post, "that is nothing to them");
        _postAll();
        _settleAll();
        equal(market.getTask(task).dissolved, 1, "dissolved");
        equal(market.withdrawable(seats[1], _ids()), p.stake, "mates are released");
        IMarket.Member[] memory members = market.getMembers(task);
        for (uint256 i = 0; i < 15; ++i) {
            equal(members[i].status, members[i].seat < 3 ? 4 : 2, "out or seated");
        }
        _open();
        equal(market.getTask(task).round, 4, "and play goes on");
    }

    /// @dev Slashed, then dead: what is left of the stake loses the deposit too.
    function test_expel_who_was_slashed() external {
        p.faultyGroups = 0;
        p.rounds = 20;
        _start();
        address[] memory seats = _seats();
        _open();
        _commitAll();
        _deep();
        for (uint256 seat = 1; seat < 15; ++seat) {
            _post(seat);
        }
        _pass();
        market.poke(task);
        _settleAll();
        for (uint256 round = 2; round <= 4; ++round) {
            _open();
            for (uint256 g = 1; g < 5; ++g) {
                _commitGroup(g);
            }
            _postAll();
            _settleAll();
        }
        market.expel(task, seats[0]);
        uint256 left = p.stake - 3 * p.rate - p.deposit;
        equal(_withdraw(seats[0]), left, "the rest");
        equal(market.getTask(task).slashed, 3 * p.rate + p.deposit, "slashed");
        equal(market.getTask(task).burned, p.deposit + 1, "burned: the deposit, and the odd wei that two mates cannot share");
        _checkMoney(task);
    }

    /// @dev Two rounds are missed from the last sign of life, not from the first round.
    function test_rounds_missed_count_from_the_last_sign_of_life() external {
        p.faultyGroups = 0;
        p.rounds = 20;
        _start();
        address[] memory seats = _seats();
        _round();
        _round();
        _open();
        for (uint256 g = 1; g < 5; ++g) {
            _commitGroup(g);
        }
        _pass();
        market.poke(task);
        _postAll();
        _settleAll();
        vm.expectRevert(abi.encodeWithSelector(IMarket.StillAlive.selector, seats[0], 1, 2));
        market.expel(task, seats[0]);
    }

    /// @dev A group plays again when the last of its members has its whole stake, whoever that is.
    function test_a_group_is_short_until_all_have_restored() external {
        p.faultyGroups = 0;
        p.rounds = 20;
        _start();
        address[] memory seats = _seats();
        for (uint256 group = 0; group < 2; ++group) {
            for (uint256 order = 0; order < 3; ++order) {
                _open();
                _commitAll();
                _deep();
                for (uint256 seat = 0; seat < 15; ++seat) {
                    if (seat / 3 != group) _post(seat);
                }
                _pass();
                market.poke(task);
                _settleAll();
                for (uint256 i = 0; i < 3; ++i) {
                    equal(market.getTask(task).short, 1 << group, "short");
                    vm.prank(seats[3 * group + (order + i) % 3]);
                    market.restoreStake{value: 3 * p.rate}(task);
                }
                equal(market.getTask(task).short, 0, "whole again");
            }
        }
    }

    /// @dev Between two rounds nothing else would end a task that lacks groups.
    function test_leaving_between_rounds_ends_a_task_with_too_few_groups() external {
        p.rounds = 20;
        p.maxEmptyRounds = 10;
        _start(); // 5 groups, and 5 are needed
        address[] memory seats = _seats();
        for (uint256 round = 1; round <= 3; ++round) {
            _open();
            _pass();
            market.poke(task);
        }
        vm.expectEmit(true, true, true, true);
        emit IMarket.GroupDissolved(task, 0, seats[2], 0);
        vm.prank(seats[2]);
        market.leave(task);
        isTrue(_status() == IMarket.TaskStatus.Ended, "ended");
        equal(market.withdrawable(seats[2], _ids()), p.stake, "who leaves forfeits nothing");
        _checkMoney(task);
    }

    /// @dev The hash of the block that draws is known in the next one; until then there is nothing to draw, and nothing to arm again.
    function test_nothing_is_drawn_in_the_block_that_draws() external {
        _create();
        _joinAll(15);
        _revealAll(15);
        uint256 drawBlock = market.getTask(task).closeBlock;
        vm.roll(drawBlock);
        market.poke(task);
        equal(market.getTask(task).closeBlock, drawBlock, "not put off");
        vm.roll(drawBlock + 1);
        market.poke(task);
        isTrue(_status() == IMarket.TaskStatus.Running, "drawn");
    }

    function test_a_task_keeps_the_box_key() external {
        _create();
        equal(market.getTask(task).boxKey, MODEL_KEY, "box key");
    }

    /// @dev A group that is dissolved while others may commit does not stop them; the round does, when it ends.
    function test_the_end_of_a_round_ends_a_task_with_too_few_groups() external {
        p.rounds = 20;
        p.maxEmptyRounds = 10;
        _start(); // 5 groups, and 5 are needed
        address[] memory seats = _seats();
        for (uint256 round = 1; round <= 3; ++round) {
            _open();
            _pass();
            market.poke(task);
        }
        _open();
        vm.prank(seats[2]);
        market.leave(task);
        isTrue(_phase() == IMarket.RoundPhase.Commit && _status() == IMarket.TaskStatus.Running, "others may commit");
        _pass();
        market.poke(task);
        isTrue(_status() == IMarket.TaskStatus.Ended, "four groups cannot tolerate a faulty one");
        equal(market.getTask(task).refunded, market.getTask(task).escrow, "all refunded");
        equal(market.getTask(task).emptyRounds, 4, "not because of empty rounds");
        _checkMoney(task);
    }

    // ------------------------------------------------------------------ money

    /// @dev The least there is to share: three wei for two mates.
    function test_a_single_wei_is_shared() external {
        p.faultyGroups = 0;
        p.rate = 1;
        _start();
        address[] memory seats = _seats();
        _open();
        _commitAll();
        _deep();
        for (uint256 seat = 1; seat < 15; ++seat) {
            _post(seat);
        }
        _pass();
        market.poke(task);
        equal(market.credits(seats[1]), 1, "a wei");
        equal(market.credits(seats[2]), 1, "a wei");
        equal(market.getTask(task).compensation, 2, "compensation");
        equal(market.totalBurned(), 1, "the odd one");
        _checkMoney(task);
    }

    /// @dev A withdrawal first does what is due: what that credits to the caller is part of it, once.
    function test_withdraw_pays_what_it_makes_due() external {
        _start();
        address[] memory seats = _seats();
        _open();
        _commitAll();
        _deep();
        for (uint256 seat = 1; seat < 15; ++seat) {
            _post(seat);
        }
        _pass();
        equal(_withdraw(seats[1]), 3 * uint256(p.rate) / 2, "closes the post phase, and is compensated");
        equal(market.credits(seats[1]), 0, "nothing is left");
        _nothingFor(seats[1]);
        equal(_withdraw(seats[3]), p.rate, "paid: too few groups to select from");
        vm.warp(vm.getBlockTimestamp() + 100_000);
        uint256 rest = market.getTask(task).escrow - 12 * uint256(p.rate);
        equal(_withdraw(MODEL_OWNER), rest, "ends the task, and is refunded");
        equal(market.credits(MODEL_OWNER), 0, "nothing is left");
        _nothingFor(MODEL_OWNER);
        _checkMoney(task);
    }

    function _nothingFor(address who) private {
        uint256[] memory ids = _ids();
        vm.expectRevert(abi.encodeWithSelector(IMarket.NothingToWithdraw.selector));
        vm.prank(who);
        market.withdraw(ids, payable(who));
    }

    function test_views_add_up() external {
        _start();
        _round();
        _start();
        _round();
        uint256[] memory both = new uint256[](2);
        (both[0], both[1]) = (1, 2);
        for (uint256 i = 0; i < 15; ++i) {
            address who = _owner(i);
            uint256 wanted = market.credits(who);
            for (uint256 id = 1; id <= 2; ++id) {
                for (uint256 seat = 0; seat < 15; ++seat) {
                    if (seated[id][seat] == who) wanted += market.getPaidRounds(id)[seat / 3] * p.rate;
                }
            }
            equal(market.withdrawable(who, both), wanted, "withdrawable");
            if (wanted == 0) continue;
            uint256 before = who.balance;
            vm.prank(who);
            market.withdraw(both, payable(who));
            equal(who.balance - before, wanted, "both tasks at once");
        }
        equal(market.withdrawable(STRANGER, both), 0, "a stranger");
        _checkMoney(1);
        _checkMoney(2);
    }

    function test_settlement_without_a_price_is_not_reimbursed() external {
        p.gasTip = 0;
        p.gasPriceCap = 0;
        _start();
        _round();
        IMarket.TaskState memory s = market.getTask(task);
        equal(s.settlementPaid, 0, "nothing");
        equal(s.escrow, 3 * 15 * uint256(p.rate), "reward only");
    }

    /// @dev Three words in chunks of one and of three: the last chunk is as long as the others.
    function test_chunks_that_fit_exactly() external {
        for (uint16 words = 1; words <= 3; words += 2) {
            p.chunkWords = words;
            _start();
            _round();
            isTrue(market.getTask(task).selected != 0, "settled");
            _checkMoney(task);
        }
    }

    /// @dev The time of a turn counts from the chunk before it, not from the close of posting.
    function test_every_chunk_has_a_turn_of_its_own() external {
        _start();
        _open();
        _commitAll();
        _postAll();
        uint256 closed = vm.getBlockTimestamp();
        equal(market.getTask(task).turnEnd, closed + p.turnSeconds, "the first turn");
        vm.warp(closed + 30);
        address settler = _settler(0);
        bytes memory data = _settleData(0);
        uint256 reimbursed = 2 gwei * market.settleGas(5, 3, 2, 16, false);
        vm.expectEmit(true, true, true, true);
        emit IMarket.ChunkSettled(task, 1, 0, settler, reimbursed, closed + 30 + p.turnSeconds);
        vm.prank(settler);
        market.settle(task, ctx, 0, data);
        equal(market.getTask(task).turnEnd, closed + 30 + p.turnSeconds, "the second turn");
        data = _settleData(1);
        settler = _settler(1);
        vm.warp(closed + 30 + p.turnSeconds);
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotYourTurn.selector, settler, closed + 30 + p.turnSeconds));
        vm.prank(STRANGER);
        market.settle(task, ctx, 1, data);
        vm.prank(settler);
        market.settle(task, ctx, 1, data);
        _checkMoney(task);
    }

    /// @dev Twenty chunks, fifteen owners: after the last seat it is the first one's turn again.
    function test_turns_go_round() external {
        p.valueCount = 16 * 20;
        p.chunkWords = 1;
        p.settleSeconds = 2000;
        _start();
        address[] memory seats = _seats();
        _open();
        _commitAll();
        _postAll();
        for (uint256 chunk = 0; chunk < 20; ++chunk) {
            isTrue(_settler(chunk) == seats[(1 + chunk) % 15], "whose turn it is");
            _settle(chunk); // within its turn
        }
        isTrue(market.getTask(task).selected != 0, "settled");
        _checkMoney(task);
    }

    function test_strict_selection_pays_two_groups_fewer() external {
        for (uint256 strict = 0; strict < 2; ++strict) {
            p.strictSelection = strict == 1;
            _start();
            _round();
            equal(market.getTask(task).paid, (strict == 1 ? 2 : 4) * 3 * uint256(p.rate), "paid");
        }
    }
}
