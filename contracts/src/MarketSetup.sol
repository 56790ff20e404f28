// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {BoxKeys} from "./BoxKeys.sol";
import {IMarket} from "./IMarket.sol";
import {MarketState} from "./MarketState.sol";
import {TaskChecker} from "./TaskBounds.sol";

/// @title The first half of a task's life: from its creation to the draw of the groups.
/// @notice Code of the market that lies at an address of its own, because EIP-170 leaves no room for it in one. Market deploys it in
/// its constructor, for good, and calls it by delegatecall: storage, money, events, msg.sender and msg.value are the market's.
/// @dev Has no state of its own but what its constructor wrote into its code. Called directly it refuses everything, so that nobody's
/// money can end up here.
contract MarketSetup is MarketState {
    /// @dev EIP-2935: the hashes of the last 8191 blocks.
    address private constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935;

    error NotInMarket();

    address private immutable market = msg.sender;
    TaskChecker private immutable checker;

    modifier inMarket() {
        if (address(this) != market) revert NotInMarket();
        _;
    }

    constructor(TaskChecker checker_) {
        checker = checker_;
    }

    function createTask(IMarket.TaskParams calldata params, bytes32 boxKey, bytes calldata spec)
        external
        payable
        inMarket
        returns (uint256 taskId)
    {
        (uint256 reward, uint256 pot) = checker.escrowRequired(params);
        if (msg.value != reward + pot) revert IMarket.EscrowMismatch(reward + pot, msg.value);
        _claimBoxKey(boxKey);

        taskId = ++lastTaskId;
        Task storage t = tasks[taskId];
        t.params = params;
        t.pot = uint128(pot);
        IMarket.TaskState storage s = t.state;
        s.modelOwner = msg.sender;
        s.boxKey = boxKey;
        s.paramsHash = keccak256(abi.encode(params, boxKey, keccak256(spec)));
        s.status = IMarket.TaskStatus.Joining;
        s.phaseEnd = _after(params.joinSeconds);
        s.escrow = uint128(msg.value);
        emit IMarket.TaskCreated(taskId, msg.sender, boxKey, params, spec, msg.value);
    }

    function join(uint256 taskId, bytes32 boxKey, bytes32 nonceCommitment, bytes32[] calldata proof) external payable inMarket {
        Task storage t = _task(taskId);
        IMarket.TaskState storage s = t.state;
        if (s.status != IMarket.TaskStatus.Joining) {
            if (s.status == IMarket.TaskStatus.Revealing && s.memberCount == _capacity(t)) revert IMarket.TaskFull(taskId);
            revert IMarket.WrongStatus(s.status);
        }
        if (t.place[msg.sender] != 0) revert IMarket.AlreadyJoined(msg.sender);
        if (msg.value != t.params.stake) revert IMarket.WrongStake(t.params.stake, msg.value);
        if (t.params.allowlistRoot != 0) {
            bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(msg.sender))));
            if (!MerkleProof.verifyCalldata(proof, t.params.allowlistRoot, leaf)) revert IMarket.NotAllowed(msg.sender);
        }
        _claimBoxKey(boxKey);

        t.members.push(IMarket.Member(msg.sender, uint80(msg.value), NO_SEAT, JOINED, boxKey, nonceCommitment, 0));
        t.place[msg.sender] = t.members.length;
        s.memberCount = uint8(t.members.length);
        s.stakesIn += uint128(msg.value);
        emit IMarket.Joined(taskId, msg.sender, boxKey, msg.value);
        if (s.memberCount == _capacity(t)) _closeJoining(taskId, t);
    }

    function reveal(uint256 taskId, bytes32 nonce) external inMarket {
        Task storage t = _task(taskId);
        _requireStatus(t.state, IMarket.TaskStatus.Revealing);
        IMarket.Member storage m = _member(t, msg.sender);
        if (m.status == REVEALED) revert IMarket.AlreadyRevealed(msg.sender);
        if (m.record != keccak256(abi.encode(taskId, msg.sender, nonce))) revert IMarket.BadNonce(msg.sender);

        m.status = REVEALED;
        t.nonces ^= keccak256(abi.encode(msg.sender, nonce)); // not the commitment, which everybody knows since joining
        t.revealedCount += 1;
        emit IMarket.Revealed(taskId, msg.sender);
        if (t.revealedCount == t.state.memberCount) _closeRevealing(taskId, t);
    }

    /// @notice Does what is due by the clock in a task that does not run yet; the market looks whether something is.
    /// @dev Payable, because msg.value stays what it is when join or restoreStake advance a task.
    function advance(uint256 taskId) external payable inMarket {
        Task storage t = tasks[taskId];
        IMarket.TaskStatus status = t.state.status;
        if (status == IMarket.TaskStatus.Joining) _closeJoining(taskId, t);
        else if (status == IMarket.TaskStatus.Revealing) _closeRevealing(taskId, t);
        else if (status == IMarket.TaskStatus.Drawing) _draw(taskId, t);
    }

    // ---------------------------------------------------- from joining to the draw

    function _closeJoining(uint256 taskId, Task storage t) private {
        IMarket.TaskState storage s = t.state;
        s.status = IMarket.TaskStatus.Revealing;
        s.phaseEnd = _after(t.params.revealSeconds);
        emit IMarket.JoiningClosed(taskId, s.memberCount, s.phaseEnd);
        unchecked {
            if (s.memberCount < t.params.groupSize * _quorum(t)) _cancel(taskId, s);
        }
    }

    function _closeRevealing(uint256 taskId, Task storage t) private {
        unchecked {
            IMarket.TaskState storage s = t.state;
            uint256 count = s.memberCount;
            if (t.revealedCount != count) {
                for (uint256 i = 0; i < count; ++i) {
                    IMarket.Member storage m = t.members[i];
                    if (m.status == REVEALED) continue;
                    m.status = RELEASED;
                    m.stake -= t.params.deposit;
                    _burn(s, t.params.deposit);
                    emit IMarket.Slashed(taskId, 0, m.account, t.params.deposit, 0, t.params.deposit);
                }
            }
            if (t.revealedCount < t.params.groupSize * _quorum(t)) _cancel(taskId, s);
            else _armDraw(taskId, t);
        }
    }

    function _armDraw(uint256 taskId, Task storage t) private {
        unchecked {
            IMarket.TaskState storage s = t.state;
            s.status = IMarket.TaskStatus.Drawing;
            s.closeBlock = uint48(block.number + 1 + t.params.depth);
            emit IMarket.DrawArmed(taskId, s.closeBlock);
        }
    }

    /// @dev Shuffles the revealed members (Fisher-Yates from the top: for i = count - 1 .. 1, j = keccak256(seed, i) mod (i + 1),
    /// swap), seats the first G * n, releases the rest.
    function _draw(uint256 taskId, Task storage t) private {
        unchecked {
            IMarket.TaskState storage s = t.state;
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
                IMarket.Member storage m = t.members[uint8(order[i])];
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
            s.status = IMarket.TaskStatus.Running;
            s.closeBlock = 0;
            s.phaseEnd = _after(t.params.openSeconds);
            // Every round's context binds the draw: after a reorg that drew other groups, what was agreed and committed in
            // the old ones fits no round any more.
            s.paramsHash = keccak256(abi.encode(s.paramsHash, order));
            emit IMarket.GroupsDrawn(taskId, groups, order, s.phaseEnd);
        }
    }

    function _historicHash(uint256 number) private view returns (bytes32 hash) {
        hash = blockhash(number);
        if (hash == 0) {
            (bool ok, bytes memory answer) = HISTORY.staticcall(abi.encode(number));
            if (ok && answer.length == 32) hash = abi.decode(answer, (bytes32));
        }
    }

    function _cancel(uint256 taskId, IMarket.TaskState storage s) private {
        s.status = IMarket.TaskStatus.Cancelled;
        emit IMarket.TaskCancelled(taskId, _refundRest(s));
    }

    function _claimBoxKey(bytes32 boxKey) private {
        if (!BoxKeys.acceptable(boxKey)) revert IMarket.BadBoxKey(boxKey);
        address owner = boxKeyOwner[boxKey];
        if (owner == address(0)) boxKeyOwner[boxKey] = msg.sender;
        else if (owner != msg.sender) revert IMarket.BoxKeyTaken(boxKey);
    }
}
