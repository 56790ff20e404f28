// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IMarket} from "@market/IMarket.sol";
import {MarketBase} from "./MarketBase.sol";

/// @dev Calls back into the market from its receive function.
contract Reentrant {
    IMarket internal immutable market;
    uint256[] internal ids;
    bytes internal attack;
    bool public attackSucceeded;
    uint256 public received;

    constructor(IMarket market_) payable {
        market = market_;
    }

    function join(uint256 task, uint256 stake, bytes32 boxKey) external {
        bytes32[] memory proof;
        market.join{value: stake}(task, boxKey, 0, proof);
        ids.push(task);
    }

    function leaveAndWithdraw(uint256 task, bytes calldata attack_) external {
        market.leave(task);
        attack = attack_;
        market.withdraw(ids, payable(address(this)));
    }

    /// @dev For code that a test puts at a participant's address.
    function arm(bytes calldata attack_) external {
        attack = attack_;
        attackSucceeded = false;
    }

    receive() external payable {
        received += msg.value;
        (bool ok,) = address(market).call(attack);
        if (ok) attackSucceeded = true;
    }
}

contract Refusing {
    function withdraw(IMarket market, uint256[] calldata ids) external {
        market.withdraw(ids, payable(address(this)));
    }
}

contract Forcing {
    constructor(address payable to) payable {
        selfdestruct(to);
    }
}

contract MarketMoneyTest is MarketBase {
    function test_nothing_to_withdraw() external {
        _start();
        address who = _seats()[0];
        vm.expectRevert(abi.encodeWithSelector(IMarket.NothingToWithdraw.selector));
        vm.prank(who);
        market.withdraw(_ids(), payable(who)); // the stake is locked, and nothing is earned
        vm.expectRevert(abi.encodeWithSelector(IMarket.NothingToWithdraw.selector));
        vm.prank(STRANGER);
        market.withdraw(_ids(), payable(STRANGER));
    }

    function test_a_payee_that_refuses_costs_nothing() external {
        _start();
        _round();
        uint256 group = market.getTask(task).selected & 1 == 1 ? 0 : 1;
        address who = _seats()[group * 3];
        Refusing refusing = new Refusing();
        uint256 due = market.withdrawable(who, _ids());
        isTrue(due >= p.rate, "earned");
        vm.expectRevert(abi.encodeWithSelector(IMarket.TransferFailed.selector, address(refusing)));
        vm.prank(who);
        market.withdraw(_ids(), payable(address(refusing)));
        equal(market.withdrawable(who, _ids()), due, "still due");
        uint256 before = STRANGER.balance;
        vm.prank(who);
        market.withdraw(_ids(), payable(STRANGER));
        equal(STRANGER.balance - before, due, "to an address of its choice");
    }

    function test_reentrancy() external {
        _create();
        Reentrant reentrant = new Reentrant(market);
        vm.deal(address(reentrant), 10 ether);
        _joinAll(3);
        reentrant.join(task, p.stake, _boxKey(STRANGER));
        uint256 others = address(market).balance - p.stake;
        uint256[] memory ids = _ids();
        reentrant.leaveAndWithdraw(task, abi.encodeCall(market.withdraw, (ids, payable(address(reentrant)))));
        equal(reentrant.received(), p.stake, "once");
        isTrue(!reentrant.attackSucceeded(), "the call back fails");
        equal(address(market).balance, others, "nobody else's money");
    }

    /// @dev Only withdraw is guarded; everything else may be called by a payee, because the transfer comes last. Here a model owner
    /// is paid for one task and selects in another, pokes, and tries to be paid again.
    function test_reentrancy_into_other_functions() external {
        p.modelSelection = true;
        _create();
        uint256 escrow = market.getTask(task).escrow;
        uint256[] memory ids = _ids();
        _pass();
        market.poke(task); // nobody joined: the escrow is credited
        _start();
        _open();
        _commitAll();
        _postAll();
        uint256 second = task;
        uint256 locked = address(market).balance - escrow;
        vm.etch(MODEL_OWNER, address(new Reentrant(market)).code);
        Reentrant payee = Reentrant(payable(MODEL_OWNER));

        payee.arm(abi.encodeCall(market.withdraw, (ids, payable(MODEL_OWNER))));
        uint256 before = vm.snapshotState();
        equal(_withdrawAs(MODEL_OWNER, ids), escrow, "once");
        isTrue(!payee.attackSucceeded(), "no withdrawal within a withdrawal");
        isTrue(vm.revertToState(before), "back");

        payee.arm(abi.encodeCall(market.selectGroups, (second, ctx, 0x1e)));
        equal(_withdrawAs(MODEL_OWNER, ids), escrow, "the refund of the first task");
        isTrue(payee.attackSucceeded(), "it may select meanwhile");
        equal(market.getTask(second).selected, 0x1e, "selected");
        equal(market.getTask(second).paid, 15 * uint256(p.rate), "and paid once");
        equal(address(market).balance, locked, "nothing else went out");
        _checkMoney(second);

        // what a payee is credited with meanwhile is not lost
        _create();
        _pass();
        before = market.getTask(task).escrow;
        _create();
        _pass();
        market.poke(task);
        payee.arm(abi.encodeCall(market.poke, (task - 1)));
        equal(_withdraw(MODEL_OWNER), before, "one refund");
        isTrue(payee.attackSucceeded(), "it may poke meanwhile");
        equal(market.credits(MODEL_OWNER), before, "and the other is credited");
        equal(_withdraw(MODEL_OWNER), before, "and paid");
        equal(address(market).balance, locked, "nothing else went out");
    }

    function _withdrawAs(address who, uint256[] memory ids) private returns (uint256 got) {
        uint256 before = who.balance;
        vm.prank(who);
        market.withdraw(ids, payable(who));
        got = who.balance - before;
    }

    function test_a_model_owner_that_refuses_money_holds_up_nobody() external {
        _start();
        _round();
        vm.etch(MODEL_OWNER, address(new Refusing()).code);
        vm.warp(vm.getBlockTimestamp() + 100_000);
        for (uint256 i = 0; i < 15; ++i) {
            isTrue(_withdraw(_owner(i)) >= p.stake, "stake, and what was earned");
        }
        isTrue(_status() == IMarket.TaskStatus.Ended, "ended");
        uint256 rest = market.credits(MODEL_OWNER);
        uint256[] memory ids = _ids();
        vm.expectRevert(abi.encodeWithSelector(IMarket.TransferFailed.selector, MODEL_OWNER));
        vm.prank(MODEL_OWNER);
        market.withdraw(ids, payable(MODEL_OWNER));
        equal(address(market).balance, rest, "only its own money waits");
        vm.prank(MODEL_OWNER);
        market.withdraw(ids, payable(STRANGER));
        equal(address(market).balance, 0, "for an address that takes it");
    }

    function test_pay_is_collected_once_even_when_a_task_is_named_twice() external {
        _start();
        _round();
        uint256 group = market.getTask(task).selected & 1 == 1 ? 0 : 1;
        address who = _seats()[group * 3 + 2];
        uint256 credit = market.credits(who);
        uint256[] memory twice = new uint256[](2);
        (twice[0], twice[1]) = (task, task);
        uint256 before = who.balance;
        vm.prank(who);
        market.withdraw(twice, payable(who));
        equal(who.balance - before, p.rate + credit, "one round's pay");
        _round();
        _round();
        uint256 paid = market.getPaidRounds(task)[group];
        credit = market.credits(who);
        equal(_withdraw(who), (paid - 1) * p.rate + p.stake + credit, "the rest, and the stake");
    }

    /// @dev A task withdraws nothing from another: two at once, one ends early.
    function test_tasks_do_not_share_money() external {
        _start();
        uint256 first = task;
        _start();
        _round();
        _checkMoney(first);
        _checkMoney(task);
        vm.warp(vm.getBlockTimestamp() + 100_000);
        market.poke(task);
        isTrue(_status() == IMarket.TaskStatus.Ended, "second ended");
        isTrue(market.getTask(first).status == IMarket.TaskStatus.Running, "the first is not even looked at");
        for (uint256 i = 0; i < 15; ++i) {
            _withdraw(_owner(i));
        }
        _withdraw(MODEL_OWNER);
        IMarket.TaskState memory s = market.getTask(first);
        equal(address(market).balance, s.escrow + s.stakesIn, "the first task's money is all there");
    }

    function test_forced_ether_belongs_to_nobody() external {
        _create();
        new Forcing{value: 1 ether}(payable(address(market)));
        _joinAll(14);
        _pass();
        market.poke(task);
        for (uint256 i = 0; i < 14; ++i) {
            equal(_withdraw(_owner(i)), p.stake, "stake");
        }
        _withdraw(MODEL_OWNER);
        equal(address(market).balance, 1 ether, "stays");
    }

    function test_pay_outlives_the_group() external {
        p.rounds = 20;
        p.maxGroups = 6;
        _start();
        _open();
        _commitAll();
        _postAll();
        _pass();
        market.poke(task); // late: all six are paid
        address[] memory seats = _seats();
        for (uint256 round = 2; round <= 4; ++round) {
            _open();
            vm.prank(seats[0]);
            market.sitOut(task, ctx);
            for (uint256 g = 1; g < 6; ++g) {
                _commitGroup(g);
            }
            _postAll();
            _settleAll();
        }
        vm.prank(seats[2]);
        market.leave(task);
        equal(_withdraw(seats[1]), p.stake + p.rate, "stake and the round that was paid");
    }

    /// @dev The pot pays every settle call of every round at the cap, and no more.
    function test_the_pot_lasts_to_the_end() external {
        vm.fee(1000 gwei);
        _start();
        for (uint256 round = 1; round <= 3; ++round) {
            _round();
        }
        IMarket.TaskState memory s = market.getTask(task);
        (, uint256 pot) = market.escrowRequired(p);
        equal(s.settlementPaid, pot, "to the wei, with all groups complete at the cap");
        _checkMoney(task);
    }
}
