// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IMarket} from "@market/IMarket.sol";
import {MarketBase} from "./MarketBase.sol";

/// @dev Drives one small task after the other, of either kind, with whatever the fuzzer makes of the model owner, the owners, strangers and the clock. Each action does
/// something the market must accept in the state it finds, so that any revert is a failure; a few do what it must refuse.
contract Handler is MarketBase {
    uint256 internal constant ACTORS = 12; // up to eleven seats, and one more
    uint256 public steps;
    mapping(bytes32 action => uint256) public done;
    uint256[] internal taskIds;
    uint256 internal lastEnded;
    mapping(uint256 group => uint256) internal lastPaid;
    mapping(uint256 task => bool) internal read;
    mapping(uint256 task => uint256) internal tallied; // rounds
    mapping(uint256 task => mapping(uint256 group => uint256)) internal completed; // rounds in which the group was complete at their end

    constructor() {
        super.setUp();
        p.groupSize = 3;
        p.maxGroups = 4;
        p.faultyGroups = 0;
        p.valueCount = 20; // two words, two chunks of one
        p.chunkWords = 1;
        p.rounds = 8;
        p.maxMissedRounds = 1;
        p.maxEmptyRounds = 2;
    }

    modifier step(bytes32 action) {
        ++steps;
        // the first call decides of which kind the first task is
        if (taskIds.length == 0) _createAny(uint256(keccak256(msg.data)));
        _;
        _after(action);
    }

    function _createAny(uint256 seed) private {
        p.modelSelection = seed % 2 == 1;
        p.strictSelection = seed / 2 % 2 == 1;
        p.brokerDelivery = seed / 4 % 2 == 1;
        vm.deal(MODEL_OWNER, 1e30);
        _create();
        taskIds.push(task);
    }

    /// @dev Notes which groups were complete when the last round ended; the contract forgets it when the next one opens.
    function _tally() private {
        IMarket.TaskState memory s = market.getTask(task);
        if (s.phase != IMarket.RoundPhase.Idle || s.round == tallied[task]) return;
        tallied[task] = s.round;
        for (uint256 g = 0; g < s.groupCount; ++g) {
            completed[task][g] += s.complete >> g & 1;
        }
    }

    function _open() internal override {
        _tally();
        super._open();
    }

    /// @dev Where the model owner selects, all complete groups are paid, and no others; where the contract does, at most those.
    function _checkPaid(uint256 id) private view {
        bool all = market.getParams(id).modelSelection;
        uint256[] memory paid = market.getPaidRounds(id);
        uint256 total = 0;
        for (uint256 g = 0; g < paid.length; ++g) {
            isTrue(all ? paid[g] == completed[id][g] : paid[g] <= completed[id][g], "paid as complete");
            total += completed[id][g];
        }
        if (!all) return;
        equal(market.getTask(id).paid, p.rate * 3 * total, "paid = rate * groupSize * complete groups of all rounds");
        equal(market.getTask(id).settlementPaid, 0, "nobody settled");
    }

    function _after(bytes32 action) private {
        ++done[action];
        _tally();
        for (uint256 i = 0; i < taskIds.length; ++i) {
            _checkMoney(taskIds[i]);
            _checkPaid(taskIds[i]);
        }
        _checkSolvent();
        // nobody is paid twice a round, or before its end
        uint256[] memory paid = market.getPaidRounds(task);
        IMarket.TaskState memory s = market.getTask(task);
        uint256 ended = s.phase == IMarket.RoundPhase.Idle ? s.round : s.round - 1;
        for (uint256 g = 0; g < paid.length; ++g) {
            isTrue(paid[g] - lastPaid[g] <= ended - lastEnded, "paid more often than rounds ended");
            lastPaid[g] = paid[g];
        }
        lastEnded = ended;
    }

    /// @dev Balance covers credits, stakes held, escrow not yet given away, pay not yet collected, and what is burned.
    function _checkSolvent() internal view {
        uint256 owed = market.totalBurned() + market.credits(MODEL_OWNER) + market.credits(STRANGER);
        for (uint256 i = 0; i < ACTORS; ++i) {
            owed += market.credits(_owner(i));
        }
        for (uint256 k = 0; k < taskIds.length; ++k) {
            IMarket.TaskState memory s = market.getTask(taskIds[k]);
            owed += uint256(s.escrow) - s.paid - s.settlementPaid - s.refunded;
            IMarket.Member[] memory members = market.getMembers(taskIds[k]);
            uint256[] memory paid = market.getPaidRounds(taskIds[k]);
            for (uint256 i = 0; i < members.length; ++i) {
                owed += members[i].stake;
                if (members[i].seat != 255) owed += (paid[members[i].seat / 3] - members[i].collected) * p.rate;
            }
        }
        equal(address(market).balance, owed, "the balance is what is owed and what is burned, to the wei");
    }

    // ------------------------------------------------------------------ what actors do

    /// @dev The contract's own view of where it is, after advancing.
    function _sync() private returns (IMarket.TaskState memory s) {
        market.poke(task);
        s = market.getTask(task);
        if (s.status == IMarket.TaskStatus.Running && !read[task]) {
            read[task] = true;
            _readSeats();
        }
        ctx = s.ctx;
    }

    function _find(address who) private view returns (bool found, IMarket.Member memory member) {
        IMarket.Member[] memory members = market.getMembers(task);
        for (uint256 i = 0; i < members.length; ++i) {
            if (members[i].account == who) return (true, members[i]);
        }
    }

    function joinOrLeave(uint256 seed) external step("join") {
        IMarket.TaskState memory s = _sync();
        address who = _owner(seed % ACTORS);
        (bool found,) = _find(who);
        if (s.status != IMarket.TaskStatus.Joining) return;
        if (!found) {
            _join(who);
        } else if (seed % 7 == 0) {
            vm.prank(who);
            market.leave(task);
        }
    }

    function joinMany(uint256 seed) external step("join many") {
        if (_sync().status != IMarket.TaskStatus.Joining) return;
        for (uint256 i = 0; i < (seed % 2 == 0 ? ACTORS : 9 + seed / 2 % 4); ++i) {
            (bool found,) = _find(_owner(i));
            if (!found && _status() == IMarket.TaskStatus.Joining) _join(_owner(i));
        }
    }

    function reveal(uint256 seed) external step("reveal") {
        if (_sync().status != IMarket.TaskStatus.Revealing) return;
        for (uint256 i = 0; i < ACTORS; ++i) {
            (bool found, IMarket.Member memory member) = _find(_owner(i));
            // mostly all reveal, else most
            bool does = seed % 4 != 0 || seed >> (2 * i + 2) & 3 != 0;
            if (found && member.status == 0 && does && _status() == IMarket.TaskStatus.Revealing) _reveal(_owner(i));
        }
    }

    function open() external step("open") {
        IMarket.TaskState memory s = _sync();
        if (s.status != IMarket.TaskStatus.Running || s.phase != IMarket.RoundPhase.Idle) return;
        _open();
    }

    function _canPlay(uint256 seat, IMarket.TaskState memory s) private view returns (bool playing, IMarket.Member memory member) {
        (, member) = _find(seated[task][seat]);
        playing = member.status == 2 && s.status == IMarket.TaskStatus.Running;
    }

    function commitOrSitOut(uint256 seed, uint256 mask) external step("commit") {
        for (uint256 seat = 0; seat < 12; ++seat) {
            IMarket.TaskState memory s = _sync();
            if (s.status != IMarket.TaskStatus.Running || s.phase != IMarket.RoundPhase.Commit) return;
            if (seat >= uint256(s.groupCount) * 3) return;
            (bool playing, IMarket.Member memory member) = _canPlay(seat, s);
            if (!playing || uint256(member.record) >> 224 == s.round) continue;
            uint256 choice = mask >> (4 * seat) & 15;
            if (choice == 0) {
                vm.prank(member.account);
                market.sitOut(task, ctx);
            } else if (choice > 1 || seed % 4 == 0) {
                if (member.stake != p.stake || uint256(s.satOut | s.short | s.dissolved) >> (seat / 3) & 1 == 1) continue;
                _commit(seat);
            }
        }
    }

    function post(uint256 mask) external step("post") {
        for (uint256 seat = 0; seat < 12; ++seat) {
            IMarket.TaskState memory s = _sync();
            if (s.status != IMarket.TaskStatus.Running || s.phase != IMarket.RoundPhase.Post) return;
            if (seat >= uint256(s.groupCount) * 3) return;
            (, IMarket.Member memory member) = _canPlay(seat, s);
            if (uint256(s.committed) >> (seat / 3) & 1 == 0 || uint256(member.record) >> 217 & 1 == 1) continue;
            if (mask >> (4 * seat) & 15 == 0) continue; // keeps it back
            if (vm.getBlockNumber() < s.closeBlock + p.depth) _deep();
            _post(seat);
        }
    }

    /// @dev The model owner's receipt, for whom it likes: all at once, or some; whether it has their vectors or not.
    function acknowledge(uint256 mask) external step("acknowledge") {
        IMarket.TaskState memory s = _sync();
        if (s.status != IMarket.TaskStatus.Running || s.phase != IMarket.RoundPhase.Post) return;
        if (vm.getBlockNumber() < s.closeBlock + p.depth) _deep();
        uint256 wanted = _committedSeats();
        if (mask % 4 != 0) wanted &= mask >> 8;
        uint256 fresh = 0;
        for (uint256 seat = 0; seat < 12; ++seat) {
            if (wanted >> seat & 1 == 0) continue;
            (, IMarket.Member memory member) = _find(seated[task][seat]);
            if (uint256(member.record) >> 217 & 1 == 0) fresh |= 1 << seat;
        }
        if (!p.brokerDelivery || fresh == 0) {
            vm.prank(MODEL_OWNER);
            (bool taken,) = address(market).call(abi.encodeCall(market.acknowledge, (task, ctx, wanted)));
            isTrue(!taken, "refused where vectors are posted, and where nothing is new");
            return;
        }
        _acknowledge(wanted);
        ++done["acknowledged"];
    }

    function settle(uint256 seed) external step("settle") {
        for (uint256 i = 0; i <= seed % 3; ++i) {
            IMarket.TaskState memory s = _sync();
            if (s.status != IMarket.TaskStatus.Running || s.phase != IMarket.RoundPhase.Settle) return;
            if (p.modelSelection) {
                if (seed % 4 == 0) return _silence();
                _select(_choice());
            } else if (seed % 5 == 0) {
                vm.warp(s.turnEnd + 1);
                bytes memory data = _settleData(s.nextChunk);
                vm.prank(STRANGER);
                market.settle(task, ctx, s.nextChunk, data);
            } else if (vm.getBlockTimestamp() <= s.phaseEnd) {
                _settle(s.nextChunk);
            }
        }
    }

    /// @dev Any m of the complete groups; first a choice that must be refused.
    function _choice() internal override returns (uint256 selected) {
        uint256 complete = market.getTask(task).complete;
        uint256 seed = uint256(keccak256(abi.encode(steps, ctx)));
        uint256 wrong = seed % 16;
        if (wrong & ~complete != 0 || _countBits(wrong) != _winners()) {
            vm.prank(MODEL_OWNER);
            (bool taken,) = address(market).call(abi.encodeCall(market.selectGroups, (task, ctx, wrong)));
            isTrue(!taken, "a wrong choice is refused");
        }
        for (uint256 left = _winners(); left != 0;) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint256 bit = 1 << (seed % 4);
            if (complete & bit == 0 || selected & bit != 0) continue;
            selected |= bit;
            --left;
        }
        ++done["model owner chose"];
    }

    function _silence() private {
        _pass();
        market.poke(task);
        if (p.modelSelection) ++done["model owner silent"];
    }

    function restoreStake(uint256 seed) external step("restore") {
        IMarket.TaskState memory s = _sync();
        if (s.status != IMarket.TaskStatus.Running) return;
        // one of those that lack something, if there is any
        uint256 seats = uint256(s.groupCount) * 3;
        for (uint256 i = 0; i < seats; ++i) {
            (bool playing, IMarket.Member memory member) = _canPlay((seed % seats + i) % seats, s);
            if (!playing || member.stake == p.stake) continue;
            return _restore(member.account);
        }
    }

    function _restore(address who) private {
        (, IMarket.Member memory member) = _find(who);
        vm.deal(who, 1e24);
        vm.prank(who);
        market.restoreStake{value: p.stake - member.stake}(task);
        ++done["stake restored"];
    }

    /// @dev May be refused for good reasons; then nothing may have changed.
    function leaveOrExpel(uint256 seed) external step("leave or expel") {
        _sync();
        address who = _owner(seed % ACTORS);
        if (seed % 2 == 0) {
            vm.prank(who);
            (bool left,) = address(market).call(abi.encodeCall(market.leave, (task)));
            if (left && market.getTask(task).status == IMarket.TaskStatus.Joining) ++done["left while joining"];
            else if (left) ++done["left while running"];
        } else {
            vm.prank(STRANGER);
            (bool expelled,) = address(market).call(abi.encodeCall(market.expel, (task, who)));
            if (expelled) ++done["expelled"];
        }
    }

    function withdraw(uint256 seed) external step("withdraw") {
        _sync();
        address who = seed % 16 < ACTORS ? _owner(seed % 16) : seed % 2 == 0 ? MODEL_OWNER : STRANGER;
        uint256 due = market.withdrawable(who, taskIds);
        if (due == 0) return;
        uint256 before = who.balance;
        vm.prank(who);
        market.withdraw(taskIds, payable(who));
        equal(who.balance - before, due, "withdraw pays what it said");
        equal(market.withdrawable(who, taskIds), 0, "and all of it");
    }

    function pass(uint256 seed) external step("time") {
        vm.roll(vm.getBlockNumber() + 1 + seed % 5);
        vm.warp(vm.getBlockTimestamp() + seed % 200);
        if (seed % 3 == 0) {
            uint256 end = market.getTask(task).phaseEnd;
            if (end >= vm.getBlockTimestamp()) vm.warp(end + 1);
        }
        _sync();
    }

    /// @dev A round as it should be, as far as the state allows it.
    function wholeRound() external step("whole round") {
        IMarket.TaskState memory s = _sync();
        if (s.status != IMarket.TaskStatus.Running || s.phase != IMarket.RoundPhase.Idle || s.short | s.dissolved != 0) return;
        _round();
        ++done["round settled"];
        if (!p.modelSelection) ++done["contract chose"];
    }

    /// @dev A sign of life at any time: may be refused; then nothing may have changed.
    function signOfLife(uint256 seed) external step("sign of life") {
        IMarket.TaskState memory s = _sync();
        if (s.status != IMarket.TaskStatus.Running) return;
        vm.prank(seated[task][seed % (uint256(s.groupCount) * 3)]);
        (bool taken,) = address(market).call(abi.encodeCall(market.sitOut, (task, ctx)));
        if (taken && s.phase != IMarket.RoundPhase.Commit) {
            ++done["late sign of life"];
            equal(market.getTask(task).satOut, s.satOut, "too late to sit out");
        }
    }

    /// @dev A running task between two rounds, with all four groups playing, and at least `rounds` rounds to come.
    function _intact(IMarket.TaskState memory s, uint256 rounds) private view returns (bool) {
        return s.status == IMarket.TaskStatus.Running && s.phase == IMarket.RoundPhase.Idle && s.short | s.dissolved == 0
            && s.groupCount == 4 && s.round + rounds < p.rounds;
    }

    /// @dev One group misses as many rounds as it takes, in silence or sitting out; then one of it leaves, or is expelled.
    function neglect(uint256 seed) external step("neglect") {
        if (!_intact(_sync(), 2)) return;
        uint256 group = seed % 4;
        bool silent = seed / 4 % 2 == 0;
        address first = seated[task][group * 3];
        for (uint256 round = 0; round < 2; ++round) {
            _open();
            for (uint256 other = 0; other < 4; ++other) {
                if (other != group) _commitGroup(other);
            }
            if (silent) {
                _pass();
                market.poke(task);
            } else {
                vm.prank(first);
                market.sitOut(task, ctx);
            }
            _postAll();
            if (seed / 64 % 4 == 0) _silence(); // nobody settles or selects: late
            else _finishRound();
        }
        if (seed / 16 % 4 == 0) _open(); // also while others may commit
        uint256 seat = group * 3 + (silent ? seed / 256 % 3 : 1 + seed / 256 % 2); // who sat out is alive
        if (seed / 8 % 2 == 0) {
            vm.prank(seated[task][seat]);
            market.leave(task);
            ++done["left while running"];
        } else {
            vm.prank(STRANGER);
            market.expel(task, seated[task][seat]);
            ++done["expelled"];
        }
        isTrue(market.getTask(task).dissolved == 1 << group, "dissolved");
    }

    /// @dev Some of one group keep their vectors back and are slashed; later they may restore their stakes.
    function withhold(uint256 seed) external step("withhold") {
        if (!_intact(_sync(), 1)) return;
        uint256 group = seed % 4;
        uint256 silent = 1 + seed / 4 % 7; // any but none of the three
        _open();
        _commitAll();
        _deep();
        for (uint256 seat = 0; seat < 12; ++seat) {
            if (seat / 3 != group || silent >> (seat % 3) & 1 == 0) _post(seat);
        }
        _pass();
        market.poke(task);
        isTrue(market.getTask(task).short == 1 << group, "short");
        if (seed / 32 % 2 == 0) _finishRound();
        for (uint256 position = 0; position < 3; ++position) {
            if (silent >> position & 1 == 1 && seed >> (8 + position) & 1 == 1) _restore(seated[task][group * 3 + position]);
        }
    }

    function another(uint256 seed) external step("another task") {
        IMarket.TaskState memory s = _sync();
        if (s.status != IMarket.TaskStatus.Ended && s.status != IMarket.TaskStatus.Cancelled) return;
        if (taskIds.length >= 5) return;
        _createAny(seed);
        for (uint256 g = 0; g < 24; ++g) {
            lastPaid[g] = 0;
        }
        lastEnded = 0;
    }

    /// @dev Everybody but the market falls silent; then everybody withdraws. Only burned wei may stay.
    function finish() external {
        for (uint256 k = 0; k < taskIds.length; ++k) {
            task = taskIds[k];
            for (uint256 i = 0; i < 30; ++i) {
                if (market.getTask(task).status >= IMarket.TaskStatus.Ended) break;
                // mostly the hash of the draw block is long gone: it is armed again, and drawn by a poke in time
                uint256 drawBlock = market.getTask(task).closeBlock;
                vm.roll(i % 3 == 0 && drawBlock > vm.getBlockNumber() ? drawBlock + 1 : vm.getBlockNumber() + 300);
                vm.warp(vm.getBlockTimestamp() + 10_000);
                market.poke(task);
            }
            isTrue(market.getTask(task).status >= IMarket.TaskStatus.Ended, "a task outlives its silent participants");
        }
        for (uint256 i = 0; i < ACTORS; ++i) {
            _takeAll(_owner(i));
        }
        _takeAll(MODEL_OWNER);
        _takeAll(STRANGER);
        equal(address(market).balance, market.totalBurned(), "every wei that is not burned is out");
        _checkSolvent();
    }

    function _takeAll(address who) private {
        if (market.withdrawable(who, taskIds) == 0) return;
        vm.prank(who);
        market.withdraw(taskIds, payable(who));
    }
}

contract MarketInvariantTest is MarketBase {
    Handler internal handler;

    event log_named_uint(string what, uint256 value);

    function setUp() public override {
        handler = new Handler();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        bytes4[18] memory list = [
            Handler.joinOrLeave.selector,
            Handler.joinMany.selector,
            Handler.reveal.selector,
            Handler.open.selector,
            Handler.commitOrSitOut.selector,
            Handler.commitOrSitOut.selector,
            Handler.post.selector,
            Handler.acknowledge.selector,
            Handler.settle.selector,
            Handler.restoreStake.selector,
            Handler.leaveOrExpel.selector,
            Handler.withdraw.selector,
            Handler.pass.selector,
            Handler.another.selector,
            Handler.wholeRound.selector,
            Handler.neglect.selector,
            Handler.withhold.selector,
            Handler.signOfLife.selector
        ];
        targets = new FuzzSelector[](1);
        targets[0].addr = address(handler);
        targets[0].selectors = new bytes4[](list.length);
        for (uint256 i = 0; i < list.length; ++i) {
            targets[0].selectors[i] = list[i];
        }
    }

    /// @dev The handler checks money and solvency after each step; this only names the invariant.
    function invariant_money_is_conserved_and_the_market_solvent() external view {
        isTrue(address(handler) != address(0), "handler");
    }

    /// @dev The kind of the first task is the fuzzer's choice; so this shows that there is a choice, and that rounds of both are played.
    function test_the_handler_reaches_both_kinds_of_task() external {
        uint256 modelOwners = 0;
        uint256 contracts = 0;
        for (uint256 seed = 0; seed < 16; seed += 2) {
            Handler driven = new Handler();
            driven.joinMany(seed);
            driven.reveal(1);
            for (uint256 i = 0; i < 4; ++i) {
                driven.pass(31); // the draw
                driven.wholeRound();
            }
            isTrue(driven.done("round settled") != 0, "a round was played");
            modelOwners += driven.done("model owner chose");
            contracts += driven.done("contract chose");
        }
        isTrue(modelOwners != 0, "a model owner chose");
        isTrue(contracts != 0, "the contract chose");
    }

    /// @dev After each campaign everybody is silent, and everything is withdrawn.
    function afterInvariant() external {
        string[10] memory names = [
            "round settled",
            "late sign of life",
            "left while joining",
            "left while running",
            "expelled",
            "stake restored",
            "model owner chose",
            "model owner silent",
            "contract chose",
            "acknowledged"
        ];
        for (uint256 i = 0; i < names.length; ++i) {
            emit log_named_uint(names[i], handler.done(bytes32(bytes(names[i]))));
        }
        handler.finish();
    }
}
