// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {CommitmentChain} from "./CommitmentChain.sol";
import {IMarket} from "./IMarket.sol";

/// @title What the market remembers, and the small change of both halves of its code.
/// @notice Market and MarketSetup inherit this and nothing else that has storage, so that MarketSetup, called by delegatecall, finds
/// everything in its place.
abstract contract MarketState {
    uint8 internal constant NO_SEAT = 255;
    /// @dev Member.status
    uint8 internal constant JOINED = 0;
    uint8 internal constant REVEALED = 1;
    uint8 internal constant SEATED = 2;
    uint8 internal constant RELEASED = 3;
    uint8 internal constant OUT = 4;
    /// @dev flags in Member.record
    uint256 internal constant FLAG_COMMITTED = 1 << 216;
    uint256 internal constant FLAG_POSTED = 2 << 216;
    uint256 internal constant FLAG_SAT_OUT = 4 << 216;
    uint256 internal constant ROUND_SHIFT = 224;
    uint256 internal constant ROOT_MASK = CommitmentChain.LINK_MASK;
    /// @dev Task.tally: 5 bits a group for its commits, from bit 0, and for its posts, from bit 120. The top bit keeps the slot
    /// non-zero, so that the first owner of a round does not pay for a fresh slot.
    uint256 internal constant TALLY_EMPTY = 1 << 255;
    uint256 internal constant POSTS_SHIFT = 120;

    struct Task {
        IMarket.TaskParams params;
        IMarket.TaskState state;
        uint128 pot; //           settlement pot as escrowed
        uint8 revealedCount;
        bytes32 nonces; //        xor of keccak256(abi.encode(account, nonce)) over all revealed
        uint256 tally;
        bytes32 carry; //         keccak256 of all owners' link hashes behind the last settled chunk
        bytes32[4] seats; //      byte s: index in members of the owner in seat s
        uint16[24] paidRounds; //   by group
        uint16[24] lastComplete; // by group: the last round in which it was complete
        IMarket.Member[] members;
        mapping(address account => uint256) place; // index in members + 1
        mapping(uint256 seat => uint256) cursor; //   a vector in parts: round (32 bits) | next chunk (16) | low 208 bits of its link
        uint256[138] distances; //                    running totals of the round being settled
    }

    uint256 internal lastTaskId;
    uint256 internal burnedTotal;
    mapping(address account => uint256) internal creditOf;
    mapping(uint256 taskId => Task) internal tasks;
    mapping(bytes32 boxKey => address) internal boxKeyOwner;

    function _task(uint256 taskId) internal view returns (Task storage t) {
        t = tasks[taskId];
        if (t.state.status == IMarket.TaskStatus.None) revert IMarket.NoSuchTask(taskId);
    }

    function _requireStatus(IMarket.TaskState storage s, IMarket.TaskStatus wanted) internal view {
        if (s.status != wanted) revert IMarket.WrongStatus(s.status);
    }

    function _member(Task storage t, address account) internal view returns (IMarket.Member storage) {
        uint256 place = t.place[account];
        if (place == 0) revert IMarket.NotMember(account);
        return t.members[place - 1];
    }

    function _capacity(Task storage t) internal view returns (uint256) {
        unchecked {
            return uint256(t.params.groupSize) * t.params.maxGroups;
        }
    }

    /// @dev Fewest groups among which Multi-Krum can choose.
    function _quorum(Task storage t) internal view returns (uint256) {
        unchecked {
            return 2 * uint256(t.params.faultyGroups) + 3;
        }
    }

    function _after(uint256 seconds_) internal view returns (uint48) {
        unchecked {
            return uint48(block.timestamp + seconds_);
        }
    }

    // ---------------------------------------------------- money

    /// @dev Credits the model owner with all that is still locked.
    function _refundRest(IMarket.TaskState storage s) internal returns (uint256 amount) {
        amount = s.escrow - s.paid - s.settlementPaid - s.refunded;
        s.refunded += uint128(amount);
        creditOf[s.modelOwner] += amount;
    }

    function _burn(IMarket.TaskState storage s, uint256 amount) internal {
        s.slashed += uint128(amount);
        s.burned += uint128(amount);
        burnedTotal += amount;
    }
}
