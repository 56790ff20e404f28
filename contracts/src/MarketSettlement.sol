// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {CommitmentChain} from "./CommitmentChain.sol";
import {MarketPhases} from "./MarketPhases.sol";
import {TaskBounds} from "./TaskBounds.sol";

/// @title Vectors on the chain: held against their commitments, when they are posted and when they are settled.
abstract contract MarketSettlement is MarketPhases {
    /// @dev Task.distances: TaskBounds.totalsInSlot running totals share 252 bits.
    uint256 private constant SLOT_KEPT = 1 << 255;

    /// @dev Checks one part of a vector against the owner's commitment, or against the link its last part left.
    function _checkPart(
        Task storage t,
        bytes32 ctx,
        uint256 seat,
        uint256 record,
        uint256 firstChunk,
        bytes calldata data,
        bytes32 nextHash
    ) internal returns (bool last) {
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

    /// @dev Turns go round over the owners of the complete groups, in the order of their seats.
    function _settlerOf(Task storage t, uint256 groups, uint256 chunk) internal view returns (address) {
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
    function _checkLinks(Task storage t, bytes32 ctx, uint256 chunk, uint256 words, bool last, bytes calldata data) internal {
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

    function _digest(bytes32[] memory words) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            hash := keccak256(add(words, 0x20), shl(5, mload(words)))
        }
    }

    /// @dev The model owner pays once for the slots that settlement will use over and over, so that each settle call costs the same.
    /// The top bit of a slot stays set, and the slot allocated.
    function _layOutDistances(Task storage t) internal {
        unchecked {
            // one chunk, or nobody settles: nothing to keep
            if (t.params.modelSelection || TaskBounds.wordCount(t.params.valueCount, t.params.laneBits) <= t.params.chunkWords) return;
            uint256 groups = t.state.groupCount;
            uint256 inSlot = TaskBounds.totalsInSlot(t.params.laneBits);
            for (uint256 pair = 0; pair < groups * (groups - 1) / 2; pair += inSlot) {
                t.distances[pair / inSlot] = SLOT_KEPT;
            }
            t.carry = bytes32(SLOT_KEPT);
        }
    }

    function _loadDistances(Task storage t, uint256[] memory totals) internal view {
        unchecked {
            uint256 inSlot = TaskBounds.totalsInSlot(t.params.laneBits);
            uint256 bits = 252 / inSlot;
            for (uint256 pair = 0; pair < totals.length; pair += inSlot) {
                uint256 slot = t.distances[pair / inSlot];
                for (uint256 other = pair; other < pair + inSlot && other < totals.length; ++other) {
                    totals[other] = slot & ((1 << bits) - 1);
                    slot >>= bits;
                }
            }
        }
    }

    function _storeDistances(Task storage t, uint256[] memory totals) internal {
        unchecked {
            uint256 inSlot = TaskBounds.totalsInSlot(t.params.laneBits);
            uint256 bits = 252 / inSlot;
            for (uint256 pair = 0; pair < totals.length; pair += inSlot) {
                uint256 slot = SLOT_KEPT;
                for (uint256 other = pair; other < pair + inSlot && other < totals.length; ++other) {
                    slot |= totals[other] << ((other - pair) * bits);
                }
                t.distances[pair / inSlot] = slot;
            }
        }
    }

    function _reimburse(uint256 taskId, Task storage t, uint256 chunk, uint256 gas_) internal {
        unchecked {
            TaskState storage s = t.state;
            uint256 price = block.basefee + t.params.gasTip;
            if (price > t.params.gasPriceCap) price = t.params.gasPriceCap;
            uint256 amount = gas_ * price;
            uint256 left = t.pot - s.settlementPaid;
            if (amount > left) amount = left;
            s.settlementPaid += uint128(amount);
            creditOf[msg.sender] += amount;
            emit ChunkSettled(taskId, s.round, chunk, msg.sender, amount, s.turnEnd);
        }
    }

    /// @dev How many of so many complete groups are selected.
    function _winners(Task storage t, uint256 groups) internal view returns (uint256) {
        unchecked {
            return groups - t.params.faultyGroups - (t.params.strictSelection ? 2 : 0);
        }
    }

    function _lowest(uint256 bitmap) internal pure returns (uint256 index) {
        while (bitmap >> index & 1 == 0) {
            unchecked {
                ++index;
            }
        }
    }
}
