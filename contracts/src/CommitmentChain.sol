// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title The hash chain over the chunks of one owner's vector.
/// @notice link[j] = keccak256(tag, j, link[j + 1], chunk j), from the terminal behind the last chunk back to the root, link[0].
/// Tag and terminal bind the context of the round and the seat, so no owner can present another's vector as its own.
library CommitmentChain {
    /// @dev Of a root and of a link carried between parts, the low 208 bits are kept.
    uint256 internal constant LINK_MASK = (1 << 208) - 1;

    function tag(bytes32 ctx, uint256 seat) internal pure returns (bytes32) {
        return _domain(0, ctx, seat);
    }

    function terminal(bytes32 ctx, uint256 seat) internal pure returns (bytes32) {
        return _domain(2, ctx, seat);
    }

    /// @notice The link in front of the chunks in `data`, the first of which is number `firstChunk`; `next` is the link behind them.
    /// @dev The last chunk in data may be shorter than `chunkBytes`. Walks backwards, in one buffer behind the free memory pointer.
    function head(bytes32 tag_, uint256 firstChunk, uint256 chunkBytes, bytes calldata data, bytes32 next)
        internal
        pure
        returns (bytes32 link)
    {
        assembly ("memory-safe") {
            let buffer := mload(0x40)
            let count := div(add(data.length, sub(chunkBytes, 1)), chunkBytes)
            link := next
            mstore(buffer, tag_)
            let size := sub(data.length, mul(sub(count, 1), chunkBytes))
            for { let i := count } i {} {
                i := sub(i, 1)
                mstore(add(buffer, 0x20), add(firstChunk, i))
                mstore(add(buffer, 0x40), link)
                calldatacopy(add(buffer, 0x60), add(data.offset, mul(i, chunkBytes)), size)
                link := keccak256(buffer, add(size, 0x60))
                size := chunkBytes
            }
        }
    }

    /// @notice One chunk of one owner in the data of a settle call: for each owner, the next link and then `words` words.
    function step(bytes32 ctx, uint256 seat, uint256 chunk, uint256 words, bytes calldata data, uint256 owner)
        internal
        pure
        returns (bytes32 link, bytes32 next)
    {
        bytes32 tag_ = tag(ctx, seat);
        assembly ("memory-safe") {
            let size := shl(5, add(words, 1))
            let piece := add(data.offset, mul(owner, size))
            let buffer := mload(0x40)
            mstore(buffer, tag_)
            mstore(add(buffer, 0x20), chunk)
            calldatacopy(add(buffer, 0x40), piece, size)
            next := calldataload(piece)
            link := keccak256(buffer, add(size, 0x40))
        }
    }

    function _domain(uint256 kind, bytes32 ctx, uint256 seat) private pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let buffer := mload(0x40)
            mstore(buffer, kind)
            mstore(add(buffer, 0x20), ctx)
            mstore(add(buffer, 0x40), seat)
            hash := keccak256(buffer, 0x60)
        }
    }
}
