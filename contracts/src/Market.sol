// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {BoxKeys} from "./BoxKeys.sol";
import {CommitmentChain} from "./CommitmentChain.sol";
import {IMarket} from "./IMarket.sol";
import {RingSums} from "./RingSums.sol";
import {TaskBounds, TaskChecker} from "./TaskBounds.sol";

/// @title The OmniLytics market.
/// @notice The manual is IMarket.sol. Functions stand in the order of a task's life; each one advances the task, requires, changes
/// state, emits, and (withdraw only) transfers last.
/// @dev Most bodies are unchecked, because EIP-170 leaves no room: amounts are bounded by the wei there are, counters by TaskBounds, and
/// every subtraction stands behind the comparison or the invariant that it needs. scripts/build-contracts --check prints the size.
contract Market is IMarket, ReentrancyGuardTransient {
    uint8 private constant NO_SEAT = 255;
    /// @dev Member.status
    uint8 private constant JOINED = 0;
    uint8 private constant REVEALED = 1;
    uint8 private constant SEATED = 2;
    uint8 private constant RELEASED = 3;
    uint8 private constant OUT = 4;
    /// @dev flags in Member.record
    uint256 private constant FLAG_COMMITTED = 1 << 216;
    uint256 private constant FLAG_POSTED = 2 << 216;
    uint256 private constant FLAG_SAT_OUT = 4 << 216;
    uint256 private constant ROUND_SHIFT = 224;
    uint256 private constant ROOT_MASK = CommitmentChain.LINK_MASK;
    /// @dev Task.tally: 5 bits a group for its commits, from bit 0, and for its posts, from bit 120. The top bit keeps the slot
    /// non-zero, so that the first owner of a round does not pay for a fresh slot.
    uint256 private constant TALLY_EMPTY = 1 << 255;
    uint256 private constant POSTS_SHIFT = 120;
    /// @dev Task.distances: two totals a slot, each below 2^86.
    uint256 private constant SLOT_KEPT = 1 << 255;
    uint256 private constant DISTANCE_MASK = (1 << 127) - 1;
    /// @dev EIP-2935: the hashes of the last 8191 blocks.
    address private constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935;
    bytes32 private constant ROUND_DOMAIN = keccak256("OmniLytics round");

    struct Task {
        TaskParams params;
        TaskState state;
        uint128 pot; //           settlement pot as escrowed
        uint8 revealedCount;
        bytes32 nonces; //        xor of keccak256(abi.encode(account, nonce)) over all revealed
        uint256 tally;
        bytes32 carry; //         keccak256 of all owners' link hashes behind the last settled chunk
        bytes32[4] seats; //      byte s: index in members of the owner in seat s
        uint16[24] paidRounds; //   by group
        uint16[24] lastComplete; // by group: the last round in which it was complete
        Member[] members;
        mapping(address account => uint256) place; // index in members + 1
        mapping(uint256 seat => uint256) cursor; //   a vector in parts: round (32 bits) | next chunk (16) | low 208 bits of its link
        uint256[138] distances; //                    running totals of the round being settled
    }

    TaskChecker private immutable checker = new TaskChecker();
    uint256 public taskCount;
    uint256 public totalBurned;
    mapping(address account => uint256) public credits;
    mapping(uint256 taskId => Task) private tasks;
    mapping(bytes32 boxKey => address) private boxKeyOwner;

    // ------------------------------------------------- the life of a task, in order

    function createTask(TaskParams calldata params, bytes32 boxKey, bytes calldata spec) external payable returns (uint256 taskId) {
        (uint256 reward, uint256 pot) = checker.escrowRequired(params);
        if (msg.value != reward + pot) revert EscrowMismatch(reward + pot, msg.value);
        _claimBoxKey(boxKey);

        taskId = ++taskCount;
        Task storage t = tasks[taskId];
        t.params = params;
        t.pot = uint128(pot);
        TaskState storage s = t.state;
        s.modelOwner = msg.sender;
        s.boxKey = boxKey;
        s.paramsHash = keccak256(abi.encode(params, boxKey, keccak256(spec)));
        s.status = TaskStatus.Joining;
        s.phaseEnd = _after(params.joinSeconds);
        s.escrow = uint128(msg.value);
        emit TaskCreated(taskId, msg.sender, boxKey, params, spec, msg.value);
    }

    function join(uint256 taskId, bytes32 boxKey, bytes32 nonceCommitment, bytes32[] calldata proof) external payable {
        Task storage t = _advance(taskId);
        TaskState storage s = t.state;
        if (s.status != TaskStatus.Joining) {
            if (s.status == TaskStatus.Revealing && s.memberCount == _capacity(t)) revert TaskFull(taskId);
            revert WrongStatus(s.status);
        }
        if (t.place[msg.sender] != 0) revert AlreadyJoined(msg.sender);
        if (msg.value != t.params.stake) revert WrongStake(t.params.stake, msg.value);
        if (t.params.allowlistRoot != 0) {
            bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(msg.sender))));
            if (!MerkleProof.verifyCalldata(proof, t.params.allowlistRoot, leaf)) revert NotAllowed(msg.sender);
        }
        _claimBoxKey(boxKey);

        t.members.push(Member(msg.sender, uint80(msg.value), NO_SEAT, JOINED, boxKey, nonceCommitment, 0));
        t.place[msg.sender] = t.members.length;
        s.memberCount = uint8(t.members.length);
        s.stakesIn += uint128(msg.value);
        emit Joined(taskId, msg.sender, boxKey, msg.value);
        if (s.memberCount == _capacity(t)) _closeJoining(taskId, t);
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
                credits[msg.sender] += stake;
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

    function reveal(uint256 taskId, bytes32 nonce) external {
        Task storage t = _advance(taskId);
        _requireStatus(t.state, TaskStatus.Revealing);
        Member storage m = _member(t, msg.sender);
        if (m.status == REVEALED) revert AlreadyRevealed(msg.sender);
        if (m.record != keccak256(abi.encode(taskId, msg.sender, nonce))) revert BadNonce(msg.sender);

        m.status = REVEALED;
        t.nonces ^= keccak256(abi.encode(msg.sender, nonce)); // not the commitment, which everybody knows since joining
        t.revealedCount += 1;
        emit Revealed(taskId, msg.sender);
        if (t.revealedCount == t.state.memberCount) _closeRevealing(taskId, t);
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
            RingSums.addDistances(data, groups, groupSize, words, t.params.laneBits, totals);
            if (!last) {
                _storeDistances(t, totals);
                s.nextChunk = uint16(chunk + 1);
                s.turnEnd = _after(t.params.turnSeconds);
            }
            _reimburse(taskId, t, chunk, checker.settleGas(groups, groupSize, words, t.params.laneBits, last));
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
        uint256 amount = credits[msg.sender];
        credits[msg.sender] = 0;
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
        amount += credits[msg.sender];
        credits[msg.sender] = 0;
        if (amount == 0) revert NothingToWithdraw();
        emit Withdrawn(msg.sender, to, amount);
        (bool ok,) = to.call{value: amount}("");
        if (!ok) revert TransferFailed(to);
    }

    // ------------------------------------------------------------------ views

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
            amount = credits[account];
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

    // ---------------------------------------------------- what every function begins with

    function _task(uint256 taskId) private view returns (Task storage t) {
        t = tasks[taskId];
        if (t.state.status == TaskStatus.None) revert NoSuchTask(taskId);
    }

    /// @dev Does whatever is due by the clock. Each new deadline counts from now, so one call passes at most one of them.
    function _advance(uint256 taskId) private returns (Task storage t) {
        t = _task(taskId);
        TaskState storage s = t.state;
        TaskStatus status = s.status;
        if (status == TaskStatus.Drawing) {
            if (block.number > s.closeBlock) _draw(taskId, t);
        } else if (block.timestamp <= s.phaseEnd) {
            return t;
        } else if (status == TaskStatus.Joining) {
            _closeJoining(taskId, t);
        } else if (status == TaskStatus.Revealing) {
            _closeRevealing(taskId, t);
        } else if (status == TaskStatus.Running) {
            if (s.phase == RoundPhase.Commit) _closeCommit(taskId, t);
            else if (s.phase == RoundPhase.Post) _closePost(taskId, t);
            else if (s.phase == RoundPhase.Settle) _endRound(taskId, t, Outcome.Late, s.complete);
            else if (s.emptyRounds + _unopened(t) >= t.params.maxEmptyRounds) _end(taskId, t);
        }
    }

    function _requireStatus(TaskState storage s, TaskStatus wanted) private view {
        if (s.status != wanted) revert WrongStatus(s.status);
    }

    /// @dev Advances, and requires the phase of the round that the caller was told of.
    function _enter(uint256 taskId, RoundPhase phase, bytes32 ctx) private returns (Task storage t) {
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
    function _enterIdle(uint256 taskId, uint256 round) private returns (Task storage t) {
        t = _advance(taskId);
        TaskState storage s = t.state;
        if (msg.sender != s.modelOwner) revert NotModelOwner(msg.sender);
        _requireStatus(s, TaskStatus.Running);
        if (s.phase != RoundPhase.Idle) revert WrongPhase(s.phase);
        unchecked {
            if (round != uint256(s.round) + 1) revert WrongRound(uint256(s.round) + 1, round);
        }
    }

    function _member(Task storage t, address account) private view returns (Member storage) {
        uint256 place = t.place[account];
        if (place == 0) revert NotMember(account);
        return t.members[place - 1];
    }

    /// @dev The group of a member that still plays.
    function _group(Task storage t, Member storage m) private view returns (uint256 group) {
        unchecked {
            if (m.seat == NO_SEAT) revert NotMember(m.account);
            group = m.seat / t.params.groupSize;
            if (m.status != SEATED) revert GroupNotPlaying(group);
        }
    }

    function _seated(Task storage t, uint256 seat) private view returns (Member storage) {
        unchecked {
            return t.members[uint8(uint256(t.seats[seat >> 5]) >> (8 * (31 - (seat & 31))))];
        }
    }

    function _requireUndeclared(TaskState storage s, Member storage m) private view {
        uint256 record = uint256(m.record);
        if (record >> ROUND_SHIFT != s.round) return;
        if (record & FLAG_COMMITTED != 0) revert AlreadyCommitted(m.account);
        if (record & FLAG_SAT_OUT != 0) revert AlreadySatOut(m.account);
    }

    /// @dev INVARIANT: from its full commitment to the end of the round a group cannot be dissolved, so nobody escapes being slashed.
    function _requireNotAwaited(TaskState storage s, uint256 group) private view {
        if (s.phase != RoundPhase.Idle && uint256(s.committed) >> group & 1 == 1) revert WrongPhase(s.phase);
    }

    function _requireMissed(Task storage t, address account, uint256 missed) private view {
        if (missed <= t.params.maxMissedRounds) revert StillAlive(account, missed, t.params.maxMissedRounds);
    }

    // ---------------------------------------------------- from joining to the draw

    function _closeJoining(uint256 taskId, Task storage t) private {
        TaskState storage s = t.state;
        s.status = TaskStatus.Revealing;
        s.phaseEnd = _after(t.params.revealSeconds);
        emit JoiningClosed(taskId, s.memberCount, s.phaseEnd);
        unchecked {
            if (s.memberCount < t.params.groupSize * _quorum(t)) _cancel(taskId, s);
        }
    }

    function _closeRevealing(uint256 taskId, Task storage t) private {
        unchecked {
            TaskState storage s = t.state;
            uint256 count = s.memberCount;
            if (t.revealedCount != count) {
                for (uint256 i = 0; i < count; ++i) {
                    Member storage m = t.members[i];
                    if (m.status == REVEALED) continue;
                    m.status = RELEASED;
                    m.stake -= t.params.deposit;
                    _burn(s, t.params.deposit);
                    emit Slashed(taskId, 0, m.account, t.params.deposit, 0, t.params.deposit);
                }
            }
            if (t.revealedCount < t.params.groupSize * _quorum(t)) _cancel(taskId, s);
            else _armDraw(taskId, t);
        }
    }

    function _armDraw(uint256 taskId, Task storage t) private {
        unchecked {
            TaskState storage s = t.state;
            s.status = TaskStatus.Drawing;
            s.closeBlock = uint48(block.number + 1 + t.params.depth);
            emit DrawArmed(taskId, s.closeBlock);
        }
    }

    /// @dev Shuffles the revealed members (Fisher-Yates from the top: for i = count - 1 .. 1, j = keccak256(seed, i) mod (i + 1),
    /// swap), seats the first G * n, releases the rest.
    function _draw(uint256 taskId, Task storage t) private {
        unchecked {
            TaskState storage s = t.state;
            bytes32 blockHash = _historicHash(s.closeBlock);
            if (blockHash == 0) return _armDraw(taskId, t);
            bytes32 seed = keccak256(abi.encode(t.nonces, blockHash));
            uint256 groupSize = t.params.groupSize;
            uint256 count = t.revealedCount;
            uint256 groups = count / groupSize;
            bytes memory order = new bytes(count);
            {
                uint256 next = 0;
                for (uint256 i = 0; i < s.memberCount; ++i) {
                    if (t.members[i].status == REVEALED) order[next++] = bytes1(uint8(i));
                }
            }
            for (uint256 i = count - 1; i > 0; --i) {
                uint256 j = uint256(keccak256(abi.encode(seed, i))) % (i + 1);
                (order[i], order[j]) = (order[j], order[i]);
            }
            for (uint256 i = 0; i < count; ++i) {
                Member storage m = t.members[uint8(order[i])];
                if (i < groups * groupSize) {
                    m.status = SEATED;
                    m.seat = uint8(i);
                    m.record = bytes32(uint256(m.record) & ROOT_MASK); // round 0, no flags; not zero, so that the first commit is cheap
                } else {
                    m.status = RELEASED;
                }
            }
            assembly ("memory-safe") {
                mstore(order, mul(groups, groupSize))
            }
            for (uint256 i = 0; i < order.length; i += 32) {
                bytes32 word;
                assembly ("memory-safe") {
                    word := mload(add(add(order, 0x20), i))
                }
                t.seats[i / 32] = word;
            }
            s.groupCount = uint8(groups);
            s.status = TaskStatus.Running;
            s.closeBlock = 0;
            s.phaseEnd = _after(t.params.openSeconds);
            // Every round's context binds the draw: after a reorg that drew other groups, what was agreed and committed in
            // the old ones fits no round any more.
            s.paramsHash = keccak256(abi.encode(s.paramsHash, order));
            emit GroupsDrawn(taskId, groups, order, s.phaseEnd);
        }
    }

    function _historicHash(uint256 number) private view returns (bytes32 hash) {
        hash = blockhash(number);
        if (hash == 0) {
            (bool ok, bytes memory answer) = HISTORY.staticcall(abi.encode(number));
            if (ok && answer.length == 32) hash = abi.decode(answer, (bytes32));
        }
    }

    function _cancel(uint256 taskId, TaskState storage s) private {
        s.status = TaskStatus.Cancelled;
        emit TaskCancelled(taskId, _refundRest(s));
    }

    // ---------------------------------------------------- rounds

    function _closeCommitWhenDone(uint256 taskId, Task storage t) private {
        TaskState storage s = t.state;
        if (s.phase == RoundPhase.Commit && _playable(s) & ~uint256(s.committed | s.satOut) == 0) _closeCommit(taskId, t);
    }

    function _closeCommit(uint256 taskId, Task storage t) private {
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

    /// @dev Checks one part of a vector against the owner's commitment, or against the link its last part left.
    function _checkPart(
        Task storage t,
        bytes32 ctx,
        uint256 seat,
        uint256 record,
        uint256 firstChunk,
        bytes calldata data,
        bytes32 nextHash
    ) private returns (bool last) {
        unchecked {
            uint256 round = record >> ROUND_SHIFT;
            uint256 expected = record & ROOT_MASK;
            uint256 chunkBytes = uint256(t.params.chunkWords) * 32;
            uint256 left = TaskBounds.wordCount(t.params.valueCount, t.params.laneBits) * 32;
            uint256 nextChunk;
            if (firstChunk != 0 || data.length != left) {
                uint256 cursor = t.cursor[seat];
                if (cursor >> ROUND_SHIFT == round) {
                    nextChunk = (cursor >> 208) & 0xffff;
                    expected = cursor & ROOT_MASK;
                    left -= nextChunk * chunkBytes;
                }
            }
            if (firstChunk != nextChunk) revert WrongChunk(nextChunk, firstChunk);
            last = data.length == left;
            if (!last && (data.length == 0 || data.length > left || data.length % chunkBytes != 0)) revert WrongLength(left, data.length);
            if (last && nextHash != CommitmentChain.terminal(ctx, seat)) revert CommitmentMismatch(msg.sender);
            bytes32 link = CommitmentChain.head(CommitmentChain.tag(ctx, seat), firstChunk, chunkBytes, data, nextHash);
            if (uint256(link) & ROOT_MASK != expected) revert CommitmentMismatch(msg.sender);
            if (!last) {
                nextChunk = firstChunk + data.length / chunkBytes;
                t.cursor[seat] = round << ROUND_SHIFT | nextChunk << 208 | (uint256(nextHash) & ROOT_MASK);
            }
        }
    }

    /// @dev Ends the post phase: slashes who kept its vector back, names the complete groups.
    function _closePost(uint256 taskId, Task storage t) private {
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
    function _slashGroup(uint256 taskId, Task storage t, uint256 group) private {
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
                if (uint256(m.record) & FLAG_POSTED != 0) credits[m.account] += share;
            }
        }
    }

    /// @dev Turns go round over the owners of the complete groups, in the order of their seats.
    function _settlerOf(Task storage t, uint256 groups, uint256 chunk) private view returns (address) {
        unchecked {
            uint256 size = t.params.groupSize;
            uint256 turn = (t.state.round + chunk) % (groups * size);
            uint256 complete = t.state.complete;
            for (uint256 skip = turn / size; skip != 0; --skip) {
                complete &= complete - 1;
            }
            return _seated(t, _lowest(complete) * size + turn % size).account;
        }
    }

    /// @dev Checks one chunk of every owner of every complete group: the first against the roots, a later one against the links that
    /// came with the one before it. With the last chunk all links must be the terminals; otherwise they are carried to the next call.
    function _checkLinks(Task storage t, bytes32 ctx, uint256 chunk, uint256 words, bool last, bytes calldata data) private {
        uint256 complete = t.state.complete;
        uint256 groupSize = t.params.groupSize;
        bool first = chunk == 0;
        bytes32[] memory links = new bytes32[](groupSize * _count(complete));
        bytes32[] memory nexts = new bytes32[](links.length);
        uint256 seat = 0;
        unchecked {
            for (uint256 owner = 0; owner < links.length; ++owner) {
                while ((complete >> (seat / groupSize)) & 1 == 0) seat += groupSize;
                (bytes32 link, bytes32 next) = CommitmentChain.step(ctx, seat, chunk, words, data, owner);
                if (first && (uint256(link) ^ uint256(_seated(t, seat).record)) & ROOT_MASK != 0) revert BadChunkProof(chunk);
                if (last && next != CommitmentChain.terminal(ctx, seat)) revert BadChunkProof(chunk);
                links[owner] = link;
                nexts[owner] = next;
                ++seat;
            }
        }
        if (!first && _digest(links) != t.carry) revert BadChunkProof(chunk);
        if (!last) t.carry = _digest(nexts);
    }

    function _digest(bytes32[] memory words) private pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            hash := keccak256(add(words, 0x20), shl(5, mload(words)))
        }
    }

    /// @dev The model owner pays once for the slots that settlement will use over and over, so that each settle call costs the same.
    /// The top bit of a slot stays set, and the slot allocated.
    function _layOutDistances(Task storage t) private {
        unchecked {
            // one chunk, or nobody settles: nothing to keep
            if (t.params.modelSelection || TaskBounds.wordCount(t.params.valueCount, t.params.laneBits) <= t.params.chunkWords) return;
            uint256 groups = t.state.groupCount;
            for (uint256 pair = 0; pair < groups * (groups - 1) / 2; pair += 2) {
                t.distances[pair / 2] = SLOT_KEPT;
            }
            t.carry = bytes32(SLOT_KEPT);
        }
    }

    function _loadDistances(Task storage t, uint256[] memory totals) private view {
        unchecked {
            for (uint256 pair = 0; pair < totals.length; ++pair) {
                totals[pair] = t.distances[pair / 2] >> (pair % 2 * 128) & DISTANCE_MASK;
            }
        }
    }

    function _storeDistances(Task storage t, uint256[] memory totals) private {
        unchecked {
            for (uint256 pair = 0; pair < totals.length; pair += 2) {
                uint256 other = pair + 1 < totals.length ? totals[pair + 1] : 0;
                t.distances[pair / 2] = SLOT_KEPT | other << 128 | totals[pair];
            }
        }
    }

    function _reimburse(uint256 taskId, Task storage t, uint256 chunk, uint256 gas_) private {
        unchecked {
            TaskState storage s = t.state;
            uint256 price = block.basefee + t.params.gasTip;
            if (price > t.params.gasPriceCap) price = t.params.gasPriceCap;
            uint256 amount = gas_ * price;
            uint256 left = t.pot - s.settlementPaid;
            if (amount > left) amount = left;
            s.settlementPaid += uint128(amount);
            credits[msg.sender] += amount;
            emit ChunkSettled(taskId, s.round, chunk, msg.sender, amount, s.turnEnd);
        }
    }

    /// @dev INVARIANT: only here is anybody paid for a round, and each round ends once.
    function _endRound(uint256 taskId, Task storage t, Outcome outcome, uint256 paidGroups) private {
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
    function _dissolve(uint256 taskId, Task storage t, uint256 group, address account, uint256 forfeited) private {
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

    function _endWhenTooFew(uint256 taskId, Task storage t) private {
        if (t.state.groupCount - _count(t.state.dissolved) < _quorum(t)) _end(taskId, t);
    }

    function _end(uint256 taskId, Task storage t) private {
        TaskState storage s = t.state;
        s.status = TaskStatus.Ended;
        emit TaskEnded(taskId, s.round, _refundRest(s));
    }

    // ---------------------------------------------------- money

    /// @dev Credits the model owner with all that is still locked.
    function _refundRest(TaskState storage s) private returns (uint256 amount) {
        amount = s.escrow - s.paid - s.settlementPaid - s.refunded;
        s.refunded += uint128(amount);
        credits[s.modelOwner] += amount;
    }

    function _burn(TaskState storage s, uint256 amount) private {
        s.slashed += uint128(amount);
        s.burned += uint128(amount);
        totalBurned += amount;
    }

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

    // ---------------------------------------------------- small change

    function _claimBoxKey(bytes32 boxKey) private {
        if (!BoxKeys.acceptable(boxKey)) revert BadBoxKey(boxKey);
        address owner = boxKeyOwner[boxKey];
        if (owner == address(0)) boxKeyOwner[boxKey] = msg.sender;
        else if (owner != msg.sender) revert BoxKeyTaken(boxKey);
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

    function _after(uint256 seconds_) private view returns (uint48) {
        unchecked {
            return uint48(block.timestamp + seconds_);
        }
    }

    function _capacity(Task storage t) private view returns (uint256) {
        unchecked {
            return uint256(t.params.groupSize) * t.params.maxGroups;
        }
    }

    /// @dev Fewest groups among which Multi-Krum can choose.
    function _quorum(Task storage t) private view returns (uint256) {
        unchecked {
            return 2 * uint256(t.params.faultyGroups) + 3;
        }
    }

    /// @dev How many of so many complete groups are selected.
    function _winners(Task storage t, uint256 groups) private view returns (uint256) {
        unchecked {
            return groups - t.params.faultyGroups - (t.params.strictSelection ? 2 : 0);
        }
    }

    function _playable(TaskState storage s) private view returns (uint256) {
        unchecked {
            return ((1 << s.groupCount) - 1) & ~uint256(s.dissolved | s.short);
        }
    }

    /// @dev Rounds in which nobody can give a sign of life any more.
    function _roundsOver(TaskState storage s) private view returns (uint256) {
        unchecked {
            return s.phase == RoundPhase.Commit ? s.round - 1 : s.round;
        }
    }

    /// @dev How often the time to open the next round has passed.
    function _unopened(Task storage t) private view returns (uint256) {
        unchecked {
            uint256 deadline = t.state.phaseEnd;
            return block.timestamp <= deadline ? 0 : (block.timestamp - deadline - 1) / t.params.openSeconds + 1;
        }
    }

    function _lowest(uint256 bitmap) private pure returns (uint256 index) {
        while (bitmap >> index & 1 == 0) {
            unchecked {
                ++index;
            }
        }
    }

    function _count(uint256 bitmap) private pure returns (uint256 count) {
        unchecked {
            for (; bitmap != 0; bitmap &= bitmap - 1) {
                ++count;
            }
        }
    }
}
