// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IMarket} from "./IMarket.sol";
import {MarketSettlement} from "./MarketSettlement.sol";
import {RingSums} from "./RingSums.sol";
import {TaskBounds} from "./TaskBounds.sol";

/// @title The OmniLytics market.
/// @notice The manual is IMarket.sol. Functions stand in the order of a task's life; each one advances the task, requires, changes
/// state, emits, and (withdraw only) transfers last.
/// @dev Most bodies are unchecked, because every settler pays for each check: amounts are bounded by the wei there are, counters by TaskBounds,
/// and every subtraction stands behind the comparison or the invariant that it needs. What comes before the draw is MarketSetup's; how phases
/// end is in MarketPhases.sol. scripts/build-contracts --check prints the sizes, which EIP-170 bounds.
contract Market is MarketSettlement, ReentrancyGuardTransient {
    bytes32 private constant ROUND_DOMAIN = keccak256("OmniLytics round");

    // ------------------------------------------------- the life of a task, in order

    function createTask(TaskParams calldata, bytes32, bytes calldata) external payable returns (uint256) {
        _setUp();
    }

    function join(uint256 taskId, bytes32, bytes32, bytes32[] calldata) external payable {
        _advance(taskId);
        _setUp();
    }

    function leave(uint256 taskId) external {
        unchecked {
            Task storage t = _advance(taskId);
            TaskState storage s = t.state;
            Member storage m = _member(t, msg.sender);
            if (s.status == TaskStatus.Joining) {
                uint256 stake = m.stake;
                _removeMember(t, msg.sender);
                s.stakesOut += uint128(stake);
                creditOf[msg.sender] += stake;
                emit Left(taskId, msg.sender);
                return;
            }
            _requireStatus(s, TaskStatus.Running);
            uint256 group = _group(t, m);
            _requireNotAwaited(s, group);
            uint256 missed = _roundsOver(s) - t.lastComplete[group];
            _requireMissed(t, msg.sender, missed);

            emit Left(taskId, msg.sender);
            _dissolve(taskId, t, group, msg.sender, 0);
        }
    }

    function reveal(uint256 taskId, bytes32) external {
        _advance(taskId);
        _setUp();
    }

    function publishPart(uint256 taskId, uint256 round, uint256 part, bytes calldata data) external {
        _enterIdle(taskId, round);
        emit ModelPart(taskId, round, part, data);
    }

    function openRound(
        uint256 taskId,
        uint256 round,
        bytes32 modelCommit,
        bytes32 keyHash,
        bytes32 payloadHash,
        uint256 partCount,
        bytes32[] calldata padHashes,
        bytes calldata payload
    ) external {
        unchecked {
            Task storage t = _enterIdle(taskId, round);
            TaskState storage s = t.state;
            if (partCount == 0) revert BadParameter("partCount", 0, 1);
            {
                uint256 pads = uint256(t.params.groupSize) * (t.params.modelSelection ? s.groupCount : 1);
                if (padHashes.length != pads) revert WrongLength(pads, padHashes.length);
            }

            s.emptyRounds += uint8(_unopened(t)); // below maxEmptyRounds, or the task would have ended
            s.phase = RoundPhase.Commit;
            s.round = uint32(round);
            s.phaseEnd = _after(t.params.commitSeconds);
            s.satOut = 0;
            s.committed = 0;
            s.complete = 0;
            t.tally = TALLY_EMPTY;
            if (round == 1) _layOutDistances(t);
            bytes32 baseCtx = keccak256(
                abi.encode(
                    ROUND_DOMAIN,
                    block.chainid,
                    address(this),
                    taskId,
                    round,
                    s.paramsHash,
                    payloadHash,
                    partCount,
                    keyHash,
                    keccak256(abi.encodePacked(padHashes))
                )
            );
            bytes32 ctx = keccak256(abi.encode(baseCtx, modelCommit));
            s.ctx = ctx;
            emit ModelPart(taskId, round, partCount - 1, payload);
            emit RoundOpened(taskId, round, ctx, baseCtx, modelCommit, keyHash, payloadHash, partCount, padHashes, _playable(s), s.phaseEnd);
            _closeCommitWhenDone(taskId, t);
        }
    }

    function commit(uint256 taskId, bytes32 ctx, bytes32 root) external {
        unchecked {
            Task storage t = _enter(taskId, RoundPhase.Commit, ctx);
            TaskState storage s = t.state;
            Member storage m = _member(t, msg.sender);
            uint256 group = _group(t, m);
            _requireUndeclared(s, m);
            if (m.stake != t.params.stake) revert StakeTooLow(t.params.stake, m.stake);
            if ((_playable(s) & ~uint256(s.satOut)) >> group & 1 == 0) revert GroupNotPlaying(group);

            m.record = bytes32(uint256(s.round) << ROUND_SHIFT | FLAG_COMMITTED | (uint256(root) & ROOT_MASK));
            uint256 tally = t.tally + (1 << (5 * group));
            t.tally = tally;
            emit Committed(taskId, s.round, msg.sender, m.seat, root);
            if ((tally >> (5 * group)) & 31 == t.params.groupSize) {
                s.committed |= uint32(1 << group);
                _closeCommitWhenDone(taskId, t);
            }
        }
    }

    function sitOut(uint256 taskId, bytes32 ctx) external {
        Task storage t = _advance(taskId);
        TaskState storage s = t.state;
        _requireStatus(s, TaskStatus.Running);
        if (s.ctx != ctx) revert WrongContext(s.ctx, ctx);
        Member storage m = _member(t, msg.sender);
        uint256 group = _group(t, m);
        _requireUndeclared(s, m);

        m.record = bytes32(uint256(s.round) << ROUND_SHIFT | FLAG_SAT_OUT);
        emit SatOut(taskId, s.round, msg.sender, m.seat);
        // INVARIANT: after the commit phase it changes nothing but the sign of life. Without that, mates who let the
        // phase close early, round after round, could have a living owner expelled.
        if (s.phase == RoundPhase.Commit) {
            s.satOut |= uint32(1 << group);
            _closeCommitWhenDone(taskId, t);
        }
    }

    function post(uint256 taskId, bytes32 ctx, uint256 firstChunk, bytes calldata data, bytes32 nextHash) external {
        unchecked {
            Task storage t = _enter(taskId, RoundPhase.Post, ctx);
            TaskState storage s = t.state;
            Member storage m = _member(t, msg.sender);
            uint256 group = _group(t, m);
            uint256 record = uint256(m.record);
            if (uint256(s.committed) >> group & 1 == 0) revert GroupNotPlaying(group);
            if (record & FLAG_POSTED != 0) revert AlreadyPosted(msg.sender); // the group has committed, so the record is of this round
            if (block.number < uint256(s.closeBlock) + t.params.depth) {
                revert TooEarly(uint256(s.closeBlock) + t.params.depth, block.number);
            }
            bool last = _checkPart(t, ctx, m.seat, record, firstChunk, data, nextHash);

            emit Posted(taskId, s.round, msg.sender, m.seat, firstChunk, data);
            if (!last) return;
            m.record = bytes32(record | FLAG_POSTED);
            uint256 tally = t.tally + (1 << (POSTS_SHIFT + 5 * group));
            t.tally = tally;
            if ((tally >> (POSTS_SHIFT + 5 * group)) & 31 == t.params.groupSize) {
                s.complete |= uint32(1 << group);
                if (s.complete == s.committed) _closePost(taskId, t);
            }
        }
    }

    function settle(uint256 taskId, bytes32 ctx, uint256 chunk, bytes calldata data) external {
        unchecked {
            Task storage t = _enter(taskId, RoundPhase.Settle, ctx);
            TaskState storage s = t.state;
            if (t.params.modelSelection) revert WrongPhase(s.phase);
            if (chunk != s.nextChunk) revert WrongChunk(s.nextChunk, chunk);
            uint256 groupSize = t.params.groupSize;
            uint256 groups = _count(s.complete);
            uint256 words;
            bool last;
            {
                uint256 left = TaskBounds.wordCount(t.params.valueCount, t.params.laneBits) - chunk * t.params.chunkWords;
                last = left <= t.params.chunkWords;
                words = last ? left : t.params.chunkWords;
            }
            if (data.length != groups * groupSize * 32 * (words + 1)) {
                revert WrongLength(groups * groupSize * 32 * (words + 1), data.length);
            }
            if (block.timestamp <= s.turnEnd) {
                address settler = _settlerOf(t, groups, chunk);
                if (msg.sender != settler) revert NotYourTurn(settler, s.turnEnd);
            }
            _checkLinks(t, ctx, chunk, words, last, data);

            uint256[] memory totals = new uint256[](groups * (groups - 1) / 2);
            if (chunk != 0) _loadDistances(t, totals);
            uint256 farPairs = RingSums.addDistances(data, groups, groupSize, words, t.params.laneBits, totals);
            if (!last) {
                _storeDistances(t, totals);
                s.nextChunk = uint16(chunk + 1);
                s.turnEnd = _after(t.params.turnSeconds);
            }
            _reimburse(taskId, t, chunk, checker.callGas(groups, groupSize, words, t.params.laneBits, last, farPairs));
            if (last) {
                uint256 faulty = t.params.faultyGroups;
                s.selected = uint32(checker.select(totals, groups, groups - faulty - 2, _winners(t, groups), s.complete));
                emit KrumSelected(taskId, s.round, s.complete, s.selected, totals);
                _endRound(taskId, t, Outcome.Selected, s.selected);
            }
        }
    }

    function selectGroups(uint256 taskId, bytes32 ctx, uint256 selected) external {
        Task storage t = _enter(taskId, RoundPhase.Settle, ctx);
        TaskState storage s = t.state;
        if (!t.params.modelSelection || msg.sender != s.modelOwner) revert NotModelOwner(msg.sender);
        uint256 complete = s.complete;
        uint256 count = _winners(t, _count(complete));
        if (selected & ~complete != 0 || _count(selected) != count) revert BadSelection(selected, count);

        s.selected = uint32(selected);
        emit GroupsSelected(taskId, s.round, complete, selected);
        // INVARIANT: pay does not depend on the choice, so that a lie saves nothing and the model owner's Sybils earn nothing more.
        _endRound(taskId, t, Outcome.Selected, complete);
    }

    function restoreStake(uint256 taskId) external payable {
        unchecked {
            Task storage t = _advance(taskId);
            TaskState storage s = t.state;
            _requireStatus(s, TaskStatus.Running);
            Member storage m = _member(t, msg.sender);
            uint256 group = _group(t, m);
            uint256 missing = t.params.stake - m.stake;
            if (missing == 0 || msg.value != missing) revert WrongStake(missing, msg.value);

            m.stake = t.params.stake;
            s.stakesIn += uint128(missing);
            uint256 size = t.params.groupSize;
            bool full = true;
            for (uint256 seat = group * size; seat < (group + 1) * size; ++seat) {
                if (_seated(t, seat).stake != t.params.stake) full = false;
            }
            if (full) s.short &= ~uint32(1 << group);
            emit StakeRestored(taskId, msg.sender, missing);
        }
    }

    function expel(uint256 taskId, address account) external {
        unchecked {
            Task storage t = _advance(taskId);
            TaskState storage s = t.state;
            _requireStatus(s, TaskStatus.Running);
            Member storage m = _member(t, account);
            uint256 group = _group(t, m);
            _requireNotAwaited(s, group);
            uint256 lastSign = uint256(m.record) >> ROUND_SHIFT;
            uint256 over = _roundsOver(s);
            uint256 missed = over > lastSign ? over - lastSign : 0;
            _requireMissed(t, account, missed);

            uint256 forfeited = t.params.deposit < m.stake ? t.params.deposit : m.stake;
            m.stake -= uint80(forfeited);
            _burn(s, forfeited);
            emit Slashed(taskId, s.round, account, forfeited, 0, forfeited);
            _dissolve(taskId, t, group, account, forfeited);
        }
    }

    function poke(uint256 taskId) external {
        _advance(taskId);
    }

    function withdraw(uint256[] calldata taskIds, address payable to) external nonReentrant {
        uint256 amount = creditOf[msg.sender];
        creditOf[msg.sender] = 0;
        for (uint256 i = 0; i < taskIds.length; ++i) {
            Task storage t = _advance(taskIds[i]);
            (uint256 pay, uint256 stake) = _due(t, msg.sender);
            if (pay + stake == 0) continue;
            Member storage m = t.members[t.place[msg.sender] - 1];
            if (pay != 0) m.collected = t.paidRounds[m.seat / t.params.groupSize];
            if (stake != 0) {
                m.stake = 0;
                t.state.stakesOut += uint128(stake);
            }
            amount += pay + stake;
            emit Collected(taskIds[i], msg.sender, pay, stake);
        }
        // advancing may just have credited the caller: refunds and compensation
        amount += creditOf[msg.sender];
        creditOf[msg.sender] = 0;
        if (amount == 0) revert NothingToWithdraw();
        emit Withdrawn(msg.sender, to, amount);
        (bool ok,) = to.call{value: amount}("");
        if (!ok) revert TransferFailed(to);
    }

    // ------------------------------------------------------------------ views

    function taskCount() external view returns (uint256) {
        return lastTaskId;
    }

    function totalBurned() external view returns (uint256) {
        return burnedTotal;
    }

    function credits(address account) external view returns (uint256) {
        return creditOf[account];
    }

    function getTask(uint256 taskId) external view returns (TaskState memory) {
        return _task(taskId).state;
    }

    function getParams(uint256 taskId) external view returns (TaskParams memory) {
        return _task(taskId).params;
    }

    function getMembers(uint256 taskId) external view returns (Member[] memory) {
        return _task(taskId).members;
    }

    function getPaidRounds(uint256 taskId) external view returns (uint256[] memory paidRounds) {
        unchecked {
            Task storage t = _task(taskId);
            paidRounds = new uint256[](t.state.groupCount);
            for (uint256 group = 0; group < paidRounds.length; ++group) {
                paidRounds[group] = t.paidRounds[group];
            }
        }
    }

    function withdrawable(address account, uint256[] calldata taskIds) external view returns (uint256 amount) {
        unchecked {
            amount = creditOf[account];
            for (uint256 i = 0; i < taskIds.length; ++i) {
                (uint256 pay, uint256 stake) = _due(_task(taskIds[i]), account);
                amount += pay + stake;
            }
        }
    }

    function escrowRequired(TaskParams calldata) external view returns (uint256, uint256) {
        _askChecker();
    }

    function settleGas(uint256, uint256, uint256, uint256, bool) external view returns (uint256) {
        _askChecker();
    }

    // ---------------------------------------------------- other contracts' code

    /// @dev Ends the call with MarketSetup's answer to the same call, on this contract's storage.
    function _setUp() private {
        address code = address(setup);
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, 0, calldatasize())
            let ok := delegatecall(gas(), code, free, calldatasize(), 0, 0)
            returndatacopy(free, 0, returndatasize())
            if iszero(ok) { revert(free, returndatasize()) }
            return(free, returndatasize())
        }
    }

    /// @dev Ends the call with the checker's answer to the same call: shorter than to decode it and to encode it again.
    function _askChecker() private view {
        address answering = address(checker);
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, 0, calldatasize())
            let ok := staticcall(gas(), answering, free, calldatasize(), 0, 0)
            returndatacopy(free, 0, returndatasize())
            if iszero(ok) { revert(free, returndatasize()) }
            return(free, returndatasize())
        }
    }

    // ---------------------------------------------------- small change

    /// @return pay not yet collected.
    /// @return stake that is released.
    function _due(Task storage t, address account) private view returns (uint256 pay, uint256 stake) {
        unchecked {
            uint256 place = t.place[account];
            if (place == 0) return (0, 0);
            Member storage m = t.members[place - 1];
            if (m.seat != NO_SEAT) pay = uint256(t.paidRounds[m.seat / t.params.groupSize] - m.collected) * t.params.rate;
            TaskStatus status = t.state.status;
            if (m.status >= RELEASED || status == TaskStatus.Ended || status == TaskStatus.Cancelled) stake = m.stake;
        }
    }

    /// @dev Swap and pop: a place that is left can be taken by another.
    function _removeMember(Task storage t, address account) private {
        unchecked {
            uint256 place = t.place[account];
            uint256 lastPlace = t.members.length;
            if (place != lastPlace) {
                Member memory moved = t.members[lastPlace - 1];
                t.members[place - 1] = moved;
                t.place[moved.account] = place;
            }
            t.members.pop();
            delete t.place[account];
            t.state.memberCount = uint8(lastPlace - 1);
        }
    }
}
