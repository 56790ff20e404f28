// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IMarket} from "@market/IMarket.sol";
import {MarketBase} from "./MarketBase.sol";

/// @dev Vectors that the model owner is handed elsewhere: what it may acknowledge, and that nobody's pay hangs on whether it tells the truth.
contract MarketDeliveryTest is MarketBase {
    event Acknowledged(uint256 indexed taskId, uint256 indexed round, uint256 seats);

    function setUp() public override {
        super.setUp();
        p.brokerDelivery = true;
    }

    function _committed() private {
        _start();
        _open();
        _commitAll();
        _deep();
    }

    function _flags(uint256 seat) private view returns (uint256) {
        IMarket.Member[] memory members = market.getMembers(task);
        for (uint256 i = 0; i < members.length; ++i) {
            if (members[i].seat == seat) return uint256(members[i].record) >> 216 & 255;
        }
        revert("nobody");
    }

    // ------------------------------------------------------------------ createTask

    function test_posts_have_room_in_half_of_the_phase() external {
        p.postSeconds = 143; // 2 * 12 * (2 * 2 + 1 + 1) is 144
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadParameter.selector, "postSeconds", 143, 144));
        market.escrowRequired(p);
        p.postSeconds = 144;
        market.escrowRequired(p);
        p.postSeconds = 72;
        p.brokerDelivery = false;
        market.escrowRequired(p);
    }

    // ------------------------------------------------------------------ who, when, what

    function test_only_the_model_owner_of_such_a_task_acknowledges() external {
        _committed();
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotModelOwner.selector, STRANGER));
        vm.prank(STRANGER);
        market.acknowledge(task, ctx, 1);
        address owner = _seats()[0];
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotModelOwner.selector, owner));
        vm.prank(owner);
        market.acknowledge(task, ctx, 1);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongContext.selector, ctx, bytes32("other")));
        vm.prank(MODEL_OWNER);
        market.acknowledge(task, "other", 1);
        _acknowledge(1);
        equal(_flags(0), 3, "committed and posted");
    }

    function test_not_where_vectors_are_posted() external {
        p.brokerDelivery = false;
        _committed();
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotModelOwner.selector, MODEL_OWNER));
        _acknowledge(1);
    }

    function test_only_once_the_close_of_the_commit_phase_is_deep() external {
        _start();
        _open();
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongPhase.selector, IMarket.RoundPhase.Commit));
        _acknowledge(1);
        _commitAll();
        uint256 first = uint256(market.getTask(task).closeBlock) + p.depth;
        vm.roll(first - 1);
        vm.expectRevert(abi.encodeWithSelector(IMarket.TooEarly.selector, first, first - 1));
        _acknowledge(1);
        vm.roll(first);
        _acknowledge(1);
        uint256 deadline = market.getTask(task).phaseEnd;
        vm.warp(deadline + 1);
        vm.expectRevert(abi.encodeWithSelector(IMarket.PhaseOver.selector, IMarket.RoundPhase.Post, deadline, deadline + 1));
        _acknowledge(2);
        vm.warp(deadline); // in the last second
        _acknowledge(2);
    }

    function test_nothing_new_is_refused() external {
        _committed();
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadSelection.selector, 0, 0));
        _acknowledge(0);
        _acknowledge(5);
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadSelection.selector, 5, 0));
        _acknowledge(5);
        vm.expectEmit(true, true, true, true);
        emit Acknowledged(task, 1, 2); // what is new of it
        _acknowledge(7);
        equal(market.getTask(task).complete, 1, "the first group");
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadSelection.selector, 7, 0));
        _acknowledge(7);
    }

    function test_seats_of_no_committed_group_are_refused() external {
        p.faultyGroups = 0;
        _start();
        _open();
        for (uint256 group = 0; group < 4; ++group) {
            _commitGroup(group);
        }
        _commit(12); // one of the last group
        _pass();
        market.poke(task);
        _deep();
        uint256[4] memory seats = [uint256(12), 14, 15, 255];
        for (uint256 i = 0; i < seats.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IMarket.GroupNotPlaying.selector, seats[i] / 3));
            _acknowledge(1 << seats[i] | 1);
        }
        equal(_flags(0), 1, "nothing of a refused call stays");
        equal(_flags(12), 1, "committed only");
        _acknowledge(_committedSeats());
        isTrue(_phase() == IMarket.RoundPhase.Settle, "all that are awaited");
        equal(market.getTask(task).complete, 15, "four groups");
    }

    // ------------------------------------------------------------------ posts beside it

    function test_who_is_acknowledged_need_not_post_and_cannot() external {
        _committed();
        _acknowledge(1);
        address owner = _seats()[0];
        bytes memory vector = _vector(ctx, 0);
        bytes32 terminal = _terminal(0);
        vm.expectRevert(abi.encodeWithSelector(IMarket.AlreadyPosted.selector, owner));
        vm.prank(owner);
        market.post(task, ctx, 0, vector, terminal);
    }

    function test_who_is_left_out_posts_and_the_receipt_of_the_rest_stands() external {
        _committed();
        _post(4);
        vm.expectEmit(true, true, true, true);
        emit Acknowledged(task, 1, _committedSeats() & ~uint256(1 << 4));
        _acknowledge(_committedSeats());
        isTrue(_phase() == IMarket.RoundPhase.Settle, "complete at once");
        _settleAll();
        IMarket.TaskState memory s = market.getTask(task);
        equal(_countBits(s.selected), 4, "Krum chose");
        equal(s.paid, 4 * 3 * p.rate, "and four groups are paid");
        equal(s.slashed, 0, "nobody is slashed");
        _checkMoney(task);
    }

    function test_the_last_one_to_post_closes_the_phase() external {
        _committed();
        _acknowledge(_committedSeats() & ~uint256(1 << 14));
        isTrue(_phase() == IMarket.RoundPhase.Post, "one is missing");
        equal(market.getTask(task).complete, 15, "four groups are complete");
        _post(14);
        isTrue(_phase() == IMarket.RoundPhase.Settle, "now all are in");
        _settleAll();
        _checkMoney(task);
    }

    /// @dev A vector in parts, the first of which is posted: the receipt stands for the rest.
    function test_acknowledged_in_the_middle_of_a_post() external {
        _committed();
        bytes memory vector = _vector(ctx, 0);
        bytes32[] memory links = _links(ctx, 0, vector);
        address owner = _seats()[0];
        vm.prank(owner);
        market.post(task, ctx, 0, _slice(vector, 0, 64), links[1]);
        _acknowledge(_committedSeats());
        _settleAll();
        equal(market.getTask(task).settlementPaid != 0 ? 1 : 0, 1, "settled");
        _open(); // and the next round is as any other
        _commitAll();
        _postAll();
        _settleAll();
        _checkMoney(task);
    }

    // ------------------------------------------------------------------ slashing

    function test_who_neither_posts_nor_is_acknowledged_is_slashed() external {
        p.faultyGroups = 0;
        _committed();
        _acknowledge(_committedSeats() & ~uint256(1 << 7 | 1 << 6)); // of group 2 only seat 8
        _pass();
        market.poke(task);
        IMarket.TaskState memory s = market.getTask(task);
        isTrue(s.phase == IMarket.RoundPhase.Settle, "four of five are enough for f = 0");
        equal(s.complete, 27, "all but group 2");
        equal(s.short, 4, "group 2");
        equal(s.slashed, 2 * 3 * p.rate, "two of it");
        equal(market.credits(_seats()[8]), 2 * 3 * p.rate, "for the one that was acknowledged");
        _checkMoney(task);
    }

    // ------------------------------------------------------------------ pay does not hang on the truth of it

    /// @dev It acknowledges everything, has nothing, and is never heard of again.
    function test_a_model_owner_that_acknowledges_and_vanishes_pays_everybody() external {
        _committed();
        _acknowledge(_committedSeats());
        _pass();
        market.poke(task);
        IMarket.TaskState memory s = market.getTask(task);
        isTrue(s.phase == IMarket.RoundPhase.Idle, "late");
        equal(s.paid, 15 * p.rate, "all complete groups are paid");
        equal(s.settlementPaid, 0, "nobody settled");
        for (uint256 i = 0; i < 4; ++i) {
            _pass();
            vm.warp(vm.getBlockTimestamp() + 10_000);
            market.poke(task);
        }
        isTrue(_status() == IMarket.TaskStatus.Ended, "and the task ends without it");
        address[] memory seats = _seats();
        for (uint256 seat = 0; seat < 15; ++seat) {
            equal(_withdraw(seats[seat]), p.rate + p.stake, "pay and stake");
        }
        _checkMoney(task);
    }

    function test_data_that_was_not_committed_to_settles_nothing() external {
        _committed();
        _acknowledge(_committedSeats());
        bytes memory data = _settleData(0);
        data[40] ^= 0x01;
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadChunkProof.selector, 0));
        vm.prank(MODEL_OWNER);
        market.settle(task, ctx, 0, data);
    }

    function test_whoever_has_the_vectors_settles_at_once() external {
        _committed();
        _acknowledge(_committedSeats());
        uint256 chunks = _chunks();
        for (uint256 chunk = 0; chunk < chunks; ++chunk) {
            bytes memory data = _settleData(chunk);
            isTrue(_settler(chunk) != MODEL_OWNER, "it has no turn");
            isTrue(vm.getBlockTimestamp() <= market.getTask(task).turnEnd, "while one is reserved elsewhere");
            vm.prank(MODEL_OWNER);
            market.settle(task, ctx, chunk, data);
        }
        isTrue(_phase() == IMarket.RoundPhase.Idle, "settled");
        isTrue(market.credits(MODEL_OWNER) != 0, "and reimbursed from the pot that was its own");
        _checkMoney(task);
    }

    function test_where_vectors_are_posted_turns_are_kept() external {
        p.brokerDelivery = false;
        _committed();
        _postAll();
        bytes memory data = _settleData(0);
        address settler = _settler(0);
        uint256 until = market.getTask(task).turnEnd;
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotYourTurn.selector, settler, until));
        vm.prank(MODEL_OWNER);
        market.settle(task, ctx, 0, data);
    }

    /// @dev Where the model owner selects no vector ever crosses the chain, and all complete groups are paid, whatever it names.
    function test_with_model_selection_no_vector_crosses_the_chain() external {
        p.modelSelection = true;
        _committed();
        _acknowledge(_committedSeats());
        _select(_choice());
        IMarket.TaskState memory s = market.getTask(task);
        equal(s.paid, 15 * p.rate, "all complete groups");
        _open();
        _commitAll();
        _deep();
        _acknowledge(_committedSeats());
        _pass();
        market.poke(task);
        equal(market.getTask(task).paid, 30 * p.rate, "also when it says nothing");
        _checkMoney(task);
    }

    /// @dev All 128 seats in one call.
    function test_as_many_seats_as_there_can_be() external {
        _asManyOwnersAsCanBe();
        _committed();
        _acknowledge(type(uint128).max);
        equal(market.getTask(task).complete, 255, "eight groups");
        isTrue(_phase() == IMarket.RoundPhase.Settle, "complete");
    }

    /// @dev Any seats, in any two calls, posts between them: who is in is in once, and every wei is somewhere.
    function testFuzz_receipts_and_posts_mixed(uint256 first, uint256 posts, uint256 second) external {
        _committed();
        first &= 0x7fff;
        posts &= 0x7fff & ~first;
        second &= 0x7fff;
        if (first != 0 && first != 0x7fff) _acknowledge(first);
        else first = 0;
        for (uint256 seat = 0; seat < 15; ++seat) {
            if (posts >> seat & 1 == 1 && _phase() == IMarket.RoundPhase.Post && _flags(seat) == 1) _post(seat);
            else posts &= ~(1 << seat);
        }
        if (_phase() == IMarket.RoundPhase.Post && second & ~(first | posts) != 0) _acknowledge(second);
        else second = 0;
        uint256 all = first | posts | second;
        for (uint256 group = 0; group < 5; ++group) {
            equal(market.getTask(task).complete >> group & 1, all >> (3 * group) & 7 == 7 ? 1 : 0, "complete");
        }
        if (_phase() == IMarket.RoundPhase.Post) {
            _pass();
            market.poke(task);
        }
        for (uint256 seat = 0; seat < 15; ++seat) {
            equal(_flags(seat), 1 | (all >> seat & 1) << 1, "in once");
        }
        _checkMoney(task);
    }
}
