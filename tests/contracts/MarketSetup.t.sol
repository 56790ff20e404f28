// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IMarket} from "@market/IMarket.sol";
import {MarketBase} from "./MarketBase.sol";

/// @dev From createTask to the draw. Unhappy paths first, in the order of the requires.
contract MarketSetupTest is MarketBase {
    bytes32[] internal noProof;

    // ------------------------------------------------------------------ createTask

    function _refused(string memory name, uint256 value, uint256 limit) private {
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadParameter.selector, name, value, limit));
        market.escrowRequired(p);
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadParameter.selector, name, value, limit));
        vm.prank(MODEL_OWNER);
        market.createTask(p, MODEL_KEY, "{}");
        p = _params();
    }

    function test_createTask_refuses_parameters_out_of_bounds() external {
        p.groupSize = 2;
        _refused("groupSize", 2, 3);
        p.groupSize = 17;
        _refused("groupSize", 17, 16);
        p.maxGroups = 4;
        _refused("maxGroups", 4, 5);
        p.maxGroups = 25;
        _refused("maxGroups", 25, 24);
        p.groupSize = 6;
        p.maxGroups = 22;
        _refused("groupSize * maxGroups", 132, 128);
        p.laneBits = 15;
        _refused("laneBits", 15, 32);
        p.laneBits = 64;
        _refused("laneBits", 64, 32);
        p.maxMagnitude = 0;
        _refused("maxMagnitude", 0, 1);
        p.maxMagnitude = 5462; // 3 * 5462 = 16386, over 2^14
        _refused("maxMagnitude", 5462, 5461);
        p.valueCount = 0;
        _refused("valueCount", 0, 1);
        p.valueCount = (1 << 24) + 1;
        _refused("valueCount", (1 << 24) + 1, 1 << 24);
        p.chunkWords = 0;
        _refused("chunkWords", 0, 1);
        p.valueCount = 1 << 24;
        p.chunkWords = 15;
        _refused("chunks", 69906, 65535);
        p.rounds = 0;
        _refused("rounds", 0, 1);
        p.maxEmptyRounds = 0;
        _refused("maxEmptyRounds", 0, 1);
        p.maxMissedRounds = 0;
        _refused("maxMissedRounds", 0, 1);
        p.blockSeconds = 0;
        _refused("blockSeconds", 0, 1);
        p.joinSeconds = 0;
        _refused("joinSeconds", 0, 1);
        p.joinSeconds = 30 days + 1;
        _refused("joinSeconds", 30 days + 1, 30 days);
        p.revealSeconds = 11;
        _refused("revealSeconds", 11, 12);
        p.openSeconds = 0;
        _refused("openSeconds", 0, 1);
        p.commitSeconds = 47;
        _refused("commitSeconds", 47, 48);
        p.postSeconds = 71; // 12 * (2 * 2 + 1 + 1)
        _refused("postSeconds", 71, 72);
        p.turnSeconds = 0;
        _refused("turnSeconds", 0, 1);
        p.settleSeconds = 185; // 3 * (50 + 12)
        _refused("settleSeconds", 185, 186);
        p.rate = 0;
        _refused("rate", 0, 1);
        p.stake = 4e15 + 2; // 3 * (1e15 + 1) + 1e15
        _refused("stake", 4e15 + 2, 4e15 + 3);
        p.gasTip = 21 gwei;
        _refused("gasTip", 21 gwei, 20 gwei);
        p.valueCount = 16 * 300;
        p.chunkWords = 300;
        p.postSeconds = 5000;
        _refused("settle calldata", 260 + 15 * 32 * 301, 120_000);
    }

    function test_chunks_may_be_larger_than_the_vector() external {
        p.chunkWords = 65535;
        _start();
        _round();
        isTrue(market.getTask(task).selected != 0, "settled in one call");
        _checkMoney(task);
    }

    /// @dev The bound on settle's gas stands, but the one on its calldata is met first, even in the dearest shape.
    function test_calldata_runs_out_before_gas() external view {
        for (uint256 laneBits = 8; laneBits <= 32; laneBits *= 2) {
            isTrue(market.settleGas(24, 3, 51, laneBits, true) < 12_000_000, "51 words an owner are 120,068 bytes");
        }
    }

    function test_createTask_wants_the_exact_escrow() external {
        (uint256 reward, uint256 pot) = market.escrowRequired(p);
        equal(reward, 3 * 5 * 3 * (1e15 + 1), "reward");
        equal(pot, 3 * 20 gwei * (market.settleGas(5, 3, 2, 16, false) + market.settleGas(5, 3, 1, 16, true)), "pot");
        vm.expectRevert(abi.encodeWithSelector(IMarket.EscrowMismatch.selector, reward + pot, reward + pot + 1));
        vm.prank(MODEL_OWNER);
        market.createTask{value: reward + pot + 1}(p, MODEL_KEY, "{}");
    }

    function test_createTask_refuses_box_keys() external {
        (uint256 reward, uint256 pot) = market.escrowRequired(p);
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadBoxKey.selector, bytes32(0)));
        vm.prank(MODEL_OWNER);
        market.createTask{value: reward + pot}(p, 0, "{}");
        _create();
        vm.deal(STRANGER, 1e30);
        vm.expectRevert(abi.encodeWithSelector(IMarket.BoxKeyTaken.selector, MODEL_KEY));
        vm.prank(STRANGER);
        market.createTask{value: reward + pot}(p, MODEL_KEY, "{}");
    }

    function test_the_draw_is_part_of_every_context() external {
        _start();
        address[] memory seats = _seats();
        IMarket.Member[] memory members = market.getMembers(task);
        bytes memory order = new bytes(seats.length);
        for (uint256 i = 0; i < members.length; ++i) {
            if (members[i].seat != 255) order[members[i].seat] = bytes1(uint8(i));
        }
        bytes32 offered = keccak256(abi.encode(p, MODEL_KEY, keccak256("{}")));
        equal(market.getTask(task).paramsHash, keccak256(abi.encode(offered, order)), "paramsHash after the draw");
    }

    function test_createTask() external {
        (uint256 reward, uint256 pot) = market.escrowRequired(p);
        vm.expectEmit(true, true, false, true);
        emit IMarket.TaskCreated(1, MODEL_OWNER, MODEL_KEY, p, "{}", reward + pot);
        _create();
        IMarket.TaskState memory s = market.getTask(1);
        equal(uint256(uint160(s.modelOwner)), uint256(uint160(MODEL_OWNER)), "model owner");
        equal(s.paramsHash, keccak256(abi.encode(p, MODEL_KEY, keccak256("{}"))), "paramsHash");
        equal(s.phaseEnd, vm.getBlockTimestamp() + p.joinSeconds, "join deadline");
        equal(s.escrow, reward + pot, "escrow");
        equal(keccak256(abi.encode(market.getParams(1))), keccak256(abi.encode(p)), "params");
        equal(_create(), 2, "the same owner may use its key again");
        equal(market.taskCount(), 2, "count");
    }

    // ------------------------------------------------------------------ join and leave

    function test_no_such_task() external {
        bytes memory err = abi.encodeWithSelector(IMarket.NoSuchTask.selector, 7);
        vm.expectRevert(err);
        market.join(7, MODEL_KEY, 0, noProof);
        vm.expectRevert(err);
        market.leave(7);
        vm.expectRevert(err);
        market.reveal(7, 0);
        vm.expectRevert(err);
        market.poke(7);
        vm.expectRevert(err);
        market.getTask(7);
        vm.expectRevert(err);
        market.commit(7, 0, 0);
        uint256[] memory ids = new uint256[](1);
        ids[0] = 7;
        vm.expectRevert(err);
        market.withdraw(ids, payable(STRANGER));
    }

    function test_join_unhappy() external {
        _create();
        _join(_owner(0));
        vm.startPrank(_owner(0));
        vm.expectRevert(abi.encodeWithSelector(IMarket.AlreadyJoined.selector, _owner(0)));
        market.join{value: p.stake}(task, _boxKey(_owner(0)), 0, noProof);
        vm.stopPrank();
        vm.startPrank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStake.selector, p.stake, p.stake - 1));
        market.join{value: p.stake - 1}(task, _boxKey(STRANGER), 0, noProof);
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadBoxKey.selector, bytes32(uint256(1) << 248)));
        market.join{value: p.stake}(task, bytes32(uint256(1) << 248), 0, noProof);
        vm.expectRevert(abi.encodeWithSelector(IMarket.BoxKeyTaken.selector, _boxKey(_owner(0))));
        market.join{value: p.stake}(task, _boxKey(_owner(0)), 0, noProof);
        vm.expectRevert(abi.encodeWithSelector(IMarket.BoxKeyTaken.selector, MODEL_KEY));
        market.join{value: p.stake}(task, MODEL_KEY, 0, noProof);
        vm.stopPrank();
        _pass();
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStatus.selector, IMarket.TaskStatus.Cancelled));
        market.join{value: p.stake}(task, _boxKey(STRANGER), 0, noProof);
    }

    function test_join_when_full() external {
        _create();
        _joinAll(15);
        isTrue(_status() == IMarket.TaskStatus.Revealing, "joining closes when full");
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(IMarket.TaskFull.selector, task));
        market.join{value: p.stake}(task, _boxKey(STRANGER), 0, noProof);
    }

    function test_join_with_an_allowlist() external {
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(_owner(1)))));
        bytes32 other = keccak256("other");
        p.allowlistRoot = leaf < other ? keccak256(bytes.concat(leaf, other)) : keccak256(bytes.concat(other, leaf));
        _create();
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = other;
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotAllowed.selector, STRANGER));
        market.join{value: p.stake}(task, _boxKey(STRANGER), 0, proof);
        vm.deal(_owner(1), 1e18);
        vm.prank(_owner(1));
        vm.expectEmit(true, true, false, true);
        emit IMarket.Joined(task, _owner(1), _boxKey(_owner(1)), p.stake);
        market.join{value: p.stake}(task, _boxKey(_owner(1)), 0, proof);
    }

    function test_leave_while_joining() external {
        _create();
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotMember.selector, STRANGER));
        vm.prank(STRANGER);
        market.leave(task);
        _joinAll(4);
        vm.prank(_owner(1));
        market.leave(task);
        equal(market.credits(_owner(1)), p.stake, "the whole stake");
        equal(market.getTask(task).memberCount, 3, "one fewer");
        equal(uint256(uint160(market.getMembers(task)[1].account)), uint256(uint160(_owner(3))), "the last took its place");
        vm.prank(_owner(3));
        market.leave(task);
        vm.prank(_owner(0));
        market.leave(task);
        _join(_owner(1)); // and is welcome again, under its old key
        for (uint256 i = 3; i < 16; ++i) {
            _join(_owner(i)); // a place left can be taken: fifteen are in, no more
        }
        isTrue(_status() == IMarket.TaskStatus.Revealing, "full");
        _checkMoney(task);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStatus.selector, IMarket.TaskStatus.Revealing));
        vm.prank(_owner(1));
        market.leave(task);
        equal(_withdraw(_owner(0)), p.stake, "withdrawn");
    }

    // ------------------------------------------------------------------ reveal and draw

    function test_reveal_unhappy() external {
        _create();
        _joinAll(14);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStatus.selector, IMarket.TaskStatus.Joining));
        vm.prank(_owner(0));
        market.reveal(task, _nonce(_owner(0)));
        _join(_owner(14));
        vm.expectRevert(abi.encodeWithSelector(IMarket.NotMember.selector, STRANGER));
        vm.prank(STRANGER);
        market.reveal(task, 0);
        vm.expectRevert(abi.encodeWithSelector(IMarket.BadNonce.selector, _owner(0)));
        vm.prank(_owner(0));
        market.reveal(task, "wrong");
        _reveal(_owner(0));
        vm.expectRevert(abi.encodeWithSelector(IMarket.AlreadyRevealed.selector, _owner(0)));
        vm.prank(_owner(0));
        market.reveal(task, _nonce(_owner(0)));
    }

    function test_too_few_join() external {
        p.maxGroups = 6;
        _create();
        _joinAll(14);
        _pass();
        uint256 escrow = market.getTask(task).escrow;
        vm.expectEmit(true, false, false, true);
        emit IMarket.TaskCancelled(task, escrow);
        market.poke(task);
        _checkMoney(task);
        for (uint256 i = 0; i < 14; ++i) {
            equal(_withdraw(_owner(i)), p.stake, "stake back");
        }
        equal(_withdraw(MODEL_OWNER), escrow, "escrow back");
        equal(address(market).balance, 0, "all gone");
    }

    function test_too_few_reveal() external {
        _create();
        _joinAll(15);
        _revealAll(14);
        _pass();
        market.poke(task);
        isTrue(_status() == IMarket.TaskStatus.Cancelled, "cancelled");
        _checkMoney(task);
        equal(_withdraw(_owner(0)), p.stake, "stake back");
        equal(_withdraw(_owner(14)), p.stake - p.deposit, "less the deposit");
        equal(market.totalBurned(), p.deposit, "burned");
    }

    function test_who_withholds_its_nonce_is_out() external {
        p.maxGroups = 6;
        _create();
        _joinAll(18);
        for (uint256 i = 1; i < 18; ++i) {
            _reveal(_owner(i));
        }
        _pass();
        market.poke(task);
        isTrue(_status() == IMarket.TaskStatus.Drawing, "drawing");
        equal(market.getTask(task).closeBlock, vm.getBlockNumber() + 1 + p.depth, "draw block");
        vm.roll(market.getTask(task).closeBlock);
        market.poke(task);
        isTrue(_status() == IMarket.TaskStatus.Drawing, "not before the draw block is over");
        _draw();
        isTrue(_status() == IMarket.TaskStatus.Running, "running");
        equal(market.getTask(task).groupCount, 5, "17 owners make 5 groups");
        IMarket.Member[] memory members = market.getMembers(task);
        uint256 seated = 0;
        uint256 seats = 0;
        for (uint256 i = 0; i < 18; ++i) {
            if (members[i].status == 2) {
                ++seated;
                seats |= 1 << members[i].seat;
            } else {
                equal(members[i].status, 3, "released");
                equal(members[i].seat, 255, "no seat");
                equal(_withdraw(_owner(i)), i == 0 ? p.stake - p.deposit : p.stake, "released stake");
            }
        }
        equal(seated, 15, "seated");
        equal(seats, (1 << 15) - 1, "every seat once");
        equal(members[0].status, 3, "out");
        _checkMoney(task);
    }

    function test_the_draw_depends_on_the_hash_and_is_armed_again_without_one() external {
        _create();
        _joinAll(15);
        _revealAll(15);
        uint256 drawBlock = market.getTask(task).closeBlock;
        vm.roll(drawBlock + 9000); // also the history contract has forgotten
        market.poke(task);
        isTrue(_status() == IMarket.TaskStatus.Drawing, "still drawing");
        equal(market.getTask(task).closeBlock, vm.getBlockNumber() + 1 + p.depth, "armed again");
        vm.roll(uint256(market.getTask(task).closeBlock) + 300);
        // EIP-2935 answers with the hash of any block: here keccak256 of its number
        vm.etch(0x0000F90827F1C53a10cb7A02335B175320002935, hex"60205f5f3760205f205f5260205ff3");
        market.poke(task);
        isTrue(_status() == IMarket.TaskStatus.Running, "drawn by the history contract");
        // the shuffle as documented
        bytes32 nonces;
        for (uint256 i = 0; i < 15; ++i) {
            nonces ^= keccak256(abi.encode(_owner(i), _nonce(_owner(i))));
        }
        bytes32 seed = keccak256(abi.encode(nonces, keccak256(abi.encode(vm.getBlockNumber() - 300))));
        uint256[] memory order = new uint256[](15);
        for (uint256 i = 0; i < 15; ++i) {
            order[i] = i;
        }
        for (uint256 i = 14; i > 0; --i) {
            uint256 j = uint256(keccak256(abi.encode(seed, i))) % (i + 1);
            (order[i], order[j]) = (order[j], order[i]);
        }
        IMarket.Member[] memory members = market.getMembers(task);
        for (uint256 i = 0; i < 15; ++i) {
            equal(members[order[i]].seat, i, "seat");
        }
    }

    function test_reveal_after_joining_timed_out() external {
        _create();
        p.maxGroups = 6;
        _create();
        _joinAll(15);
        _pass();
        _reveal(_owner(3)); // closes joining on the way
        equal(market.getTask(task).phaseEnd, vm.getBlockTimestamp() + p.revealSeconds, "time to reveal counts from the close");
        for (uint256 i = 0; i < 15; ++i) {
            if (i != 3) _reveal(_owner(i));
        }
        isTrue(_status() == IMarket.TaskStatus.Drawing, "armed as soon as the last one has revealed");
    }

    // ------------------------------------------------------------------ the code at an address of its own

    /// @dev The second contract that the market's constructor made (the first one is the checker).
    function _setupContract() private view returns (address) {
        return address(uint160(uint256(keccak256(abi.encodePacked(bytes2(0xd694), address(market), bytes1(0x02))))));
    }

    function test_the_set_up_code_does_nothing_outside_the_market() external {
        address code = _setupContract();
        isTrue(code.code.length > 1000, "it is there");
        (uint256 reward, uint256 pot) = market.escrowRequired(p);
        bytes[4] memory calls = [
            abi.encodeCall(market.createTask, (p, MODEL_KEY, "{}")),
            abi.encodeCall(market.join, (1, MODEL_KEY, "n", noProof)),
            abi.encodeCall(market.reveal, (1, "n")),
            abi.encodeWithSignature("advance(uint256)", 1)
        ];
        uint256[4] memory values = [reward + pot, p.stake, 0, 0];
        for (uint256 i = 0; i < calls.length; ++i) {
            vm.prank(MODEL_OWNER);
            (bool taken, bytes memory answer) = code.call{value: values[i]}(calls[i]);
            isTrue(!taken && bytes4(answer) == bytes4(keccak256("NotInMarket()")), "it refuses");
        }
        vm.prank(MODEL_OWNER);
        (bool exposed,) = address(market).call(calls[3]);
        isTrue(!exposed, "and the market has no such function");
    }

    /// @dev What is due is done in the middle of a call that brings money, and the error is of the state that it led to.
    function test_a_call_with_money_advances_the_set_up_first() external {
        p.faultyGroups = 0;
        _create();
        _joinAll(15);
        _revealAll(12); // who revealed is drawn
        _pass(); // revealing is over
        vm.deal(STRANGER, 1e20);
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStatus.selector, IMarket.TaskStatus.Drawing));
        market.join{value: 5e15}(task, _boxKey(STRANGER), "n", noProof);
        vm.prank(_owner(0));
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStatus.selector, IMarket.TaskStatus.Drawing));
        market.restoreStake{value: 1}(task);
        market.poke(task);
        vm.roll(market.getTask(task).closeBlock + 1);
        vm.prank(_owner(0));
        vm.expectRevert(abi.encodeWithSelector(IMarket.WrongStake.selector, 0, 1));
        market.restoreStake{value: 1}(task); // drawn, and nothing is missing
    }
}
