// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IMarket} from "./IMarket.sol";
import {MarketSetup} from "./MarketSetup.sol";
import {MarketState} from "./MarketState.sol";
import {TaskChecker} from "./TaskBounds.sol";

/// @title The clock of a running task: how its phases end, and what follows.
abstract contract MarketPhases is IMarket, MarketState {
    TaskChecker internal immutable checker = new TaskChecker();
    MarketSetup internal immutable setup = new MarketSetup(checker);

    // ---------------------------------------------------- what every function begins with

    /// @dev Does whatever is due by the clock. Each new deadline counts from now, so one call passes at most one of them.
    function _advance(uint256 taskId) internal returns (Task storage t) {
        t = _task(taskId);
        TaskState storage s = t.state;
        TaskStatus status = s.status;
        if (status == TaskStatus.Drawing) {
            if (block.number > s.closeBlock) _advanceSetup(taskId);
        } else if (block.timestamp <= s.phaseEnd) {
            return t;
        } else if (status == TaskStatus.Running) {
            if (s.phase == RoundPhase.Commit) _closeCommit(taskId, t);
            else if (s.phase == RoundPhase.Post) _closePost(taskId, t);
            else if (s.phase == RoundPhase.Settle) _endRound(taskId, t, Outcome.Late, s.complete);
            else if (s.emptyRounds + _unopened(t) >= t.params.maxEmptyRounds) _end(taskId, t);
        } else if (status < TaskStatus.Drawing) {
            _advanceSetup(taskId);
        }
    }

    function _advanceSetup(uint256 taskId) private {
        (bool ok, bytes memory answer) = address(setup).delegatecall(abi.encodeCall(MarketSetup.advance, (taskId)));
        if (ok) return;
        assembly ("memory-safe") {
            revert(add(answer, 0x20), mload(answer))
        }
    }

    /// @dev Advances, and requires the phase of the round that the caller was told of.
    function _enter(uint256 taskId, RoundPhase phase, bytes32 ctx) internal returns (Task storage t) {
        TaskState storage s = tasks[taskId].state;
        bool wasIn = s.status == TaskStatus.Running && s.phase == phase;
        uint256 deadline = s.phaseEnd;
        t = _advance(taskId);
        if (s.status != TaskStatus.Running || s.phase != phase) {
            if (wasIn) revert PhaseOver(phase, deadline, block.timestamp);
            _requireStatus(s, TaskStatus.Running);
            revert WrongPhase(s.phase);
        }
        if (s.ctx != ctx) revert WrongContext(s.ctx, ctx);
    }

    /// @dev Advances, and requires the model owner, between two rounds, to name the next one.
    function _enterIdle(uint256 taskId, uint256 round) internal returns (Task storage t) {
        t = _advance(taskId);
        TaskState storage s = t.state;
        if (msg.sender != s.modelOwner) revert NotModelOwner(msg.sender);
        _requireStatus(s, TaskStatus.Running);
        if (s.phase != RoundPhase.Idle) revert WrongPhase(s.phase);
        unchecked {
            if (round != uint256(s.round) + 1) revert WrongRound(uint256(s.round) + 1, round);
        }
    }

    /// @dev The group of a member that still plays.
    function _group(Task storage t, Member storage m) internal view returns (uint256 group) {
        unchecked {
            if (m.seat == NO_SEAT) revert NotMember(m.account);
            group = m.seat / t.params.groupSize;
            if (m.status != SEATED) revert GroupNotPlaying(group);
        }
    }

    function _seated(Task storage t, uint256 seat) internal view returns (Member storage) {
        unchecked {
            return t.members[uint8(uint256(t.seats[seat >> 5]) >> (8 * (31 - (seat & 31))))];
        }
    }

    function _requireUndeclared(TaskState storage s, Member storage m) internal view {
        uint256 record = uint256(m.record);
        if (record >> ROUND_SHIFT != s.round) return;
        if (record & FLAG_COMMITTED != 0) revert AlreadyCommitted(m.account);
        if (record & FLAG_SAT_OUT != 0) revert AlreadySatOut(m.account);
    }

    /// @dev INVARIANT: from its full commitment to the end of the round a group cannot be dissolved, so nobody escapes being slashed.
    function _requireNotAwaited(TaskState storage s, uint256 group) internal view {
        if (s.phase != RoundPhase.Idle && uint256(s.committed) >> group & 1 == 1) revert WrongPhase(s.phase);
    }

    /// @dev A vector that is shown before the close of the commit phase is final could meet another one after a reorg.
    function _requireDeep(Task storage t) internal view {
        unchecked {
            uint256 first = uint256(t.state.closeBlock) + t.params.depth;
            if (block.number < first) revert TooEarly(first, block.number);
        }
    }

    function _requireMissed(Task storage t, address account, uint256 missed) internal view {
        if (missed <= t.params.maxMissedRounds) revert StillAlive(account, missed, t.params.maxMissedRounds);
    }

    // ---------------------------------------------------- rounds

    function _closeCommitWhenDone(uint256 taskId, Task storage t) internal {
        TaskState storage s = t.state;
        if (s.phase == RoundPhase.Commit && _playable(s) & ~uint256(s.committed | s.satOut) == 0) _closeCommit(taskId, t);
    }

    function _closeCommit(uint256 taskId, Task storage t) internal {
        TaskState storage s = t.state;
        s.closeBlock = uint48(block.number);
        if (_count(s.committed) < _quorum(t)) {
            emit CommitClosed(taskId, s.round, s.committed, block.number, 0);
            _endRound(taskId, t, Outcome.Void, 0);
        } else {
            s.phase = RoundPhase.Post;
            s.phaseEnd = _after(t.params.postSeconds);
            emit CommitClosed(taskId, s.round, s.committed, block.number, s.phaseEnd);
        }
    }

    /// @dev Ends the post phase: slashes who kept its vector back, names the complete groups.
    function _closePost(uint256 taskId, Task storage t) internal {
        unchecked {
            TaskState storage s = t.state;
            uint256 complete = s.complete;
            for (uint256 group = 0; group < s.groupCount; ++group) {
                uint256 bit = 1 << group;
                if (s.committed & bit == 0) continue;
                if (complete & bit != 0) {
                    t.lastComplete[group] = uint16(s.round);
                } else {
                    s.short |= uint32(bit);
                    _slashGroup(taskId, t, group);
                }
            }
            if (_count(complete) < _quorum(t)) {
                emit PostClosed(taskId, s.round, complete, 0);
                _endRound(taskId, t, Outcome.TooFew, complete);
            } else {
                s.phase = RoundPhase.Settle;
                s.nextChunk = 0;
                s.phaseEnd = _after(t.params.settleSeconds);
                s.turnEnd = _after(t.params.turnSeconds);
                emit PostClosed(taskId, s.round, complete, s.phaseEnd);
            }
        }
    }

    /// @dev Takes groupSize * rate from each owner of the group that did not post, for the mates that did.
    function _slashGroup(uint256 taskId, Task storage t, uint256 group) internal {
        unchecked {
            TaskState storage s = t.state;
            uint256 size = t.params.groupSize;
            uint256 posted = (t.tally >> (POSTS_SHIFT + 5 * group)) & 31;
            uint256 share = 0; // of each mate that posted
            for (uint256 seat = group * size; seat < (group + 1) * size; ++seat) {
                Member storage m = _seated(t, seat);
                if (uint256(m.record) & FLAG_POSTED != 0) continue;
                uint256 amount = size * t.params.rate;
                if (amount > m.stake) amount = m.stake;
                uint256 each = posted == 0 ? 0 : amount / posted;
                share += each;
                m.stake -= uint80(amount);
                s.compensation += uint128(each * posted);
                s.slashed += uint128(each * posted);
                _burn(s, amount - each * posted);
                emit Slashed(taskId, s.round, m.account, amount, each * posted, amount - each * posted);
            }
            if (share == 0) return;
            for (uint256 seat = group * size; seat < (group + 1) * size; ++seat) {
                Member storage m = _seated(t, seat);
                if (uint256(m.record) & FLAG_POSTED != 0) creditOf[m.account] += share;
            }
        }
    }

    /// @dev INVARIANT: only here is anybody paid for a round, and each round ends once.
    function _endRound(uint256 taskId, Task storage t, Outcome outcome, uint256 paidGroups) internal {
        unchecked {
            TaskState storage s = t.state;
            uint256 amount = _count(paidGroups) * t.params.groupSize * t.params.rate;
            for (uint256 group = 0; paidGroups >> group != 0; ++group) {
                if ((paidGroups >> group) & 1 == 1) t.paidRounds[group] += 1;
            }
            s.paid += uint128(amount);
            s.emptyRounds = paidGroups == 0 ? s.emptyRounds + 1 : 0;
            s.phase = RoundPhase.Idle;
            s.phaseEnd = _after(t.params.openSeconds);
            emit RoundEnded(taskId, s.round, outcome, paidGroups, amount, s.phaseEnd);
            if (s.round == t.params.rounds || s.emptyRounds >= t.params.maxEmptyRounds) _end(taskId, t);
            else _endWhenTooFew(taskId, t);
        }
    }

    /// @dev Releases a group for good.
    function _dissolve(uint256 taskId, Task storage t, uint256 group, address account, uint256 forfeited) internal {
        unchecked {
            TaskState storage s = t.state;
            uint256 size = t.params.groupSize;
            for (uint256 seat = group * size; seat < (group + 1) * size; ++seat) {
                _seated(t, seat).status = OUT;
            }
            s.dissolved |= uint32(1 << group);
            emit GroupDissolved(taskId, group, account, forfeited);
            _closeCommitWhenDone(taskId, t);
            if (s.status == TaskStatus.Running && s.phase == RoundPhase.Idle) _endWhenTooFew(taskId, t);
        }
    }

    function _endWhenTooFew(uint256 taskId, Task storage t) internal {
        if (t.state.groupCount - _count(t.state.dissolved) < _quorum(t)) _end(taskId, t);
    }

    function _end(uint256 taskId, Task storage t) internal {
        TaskState storage s = t.state;
        s.status = TaskStatus.Ended;
        emit TaskEnded(taskId, s.round, _refundRest(s));
    }

    // ---------------------------------------------------- small change

    function _playable(TaskState storage s) internal view returns (uint256) {
        unchecked {
            return ((1 << s.groupCount) - 1) & ~uint256(s.dissolved | s.short);
        }
    }

    /// @dev Rounds in which nobody can give a sign of life any more.
    function _roundsOver(TaskState storage s) internal view returns (uint256) {
        unchecked {
            return s.phase == RoundPhase.Commit ? s.round - 1 : s.round;
        }
    }

    /// @dev How often the time to open the next round has passed.
    function _unopened(Task storage t) internal view returns (uint256) {
        unchecked {
            uint256 deadline = t.state.phaseEnd;
            return block.timestamp <= deadline ? 0 : (block.timestamp - deadline - 1) / t.params.openSeconds + 1;
        }
    }

    function _count(uint256 bitmap) internal pure returns (uint256 count) {
        unchecked {
            for (; bitmap != 0; bitmap &= bitmap - 1) {
                ++count;
            }
        }
    }
}
