// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title Multi-Krum in integers.
library Krum {
    /// @notice Scores each of `count` vectors by the sum of its `neighbours` smallest distances to others, and selects the `winners`
    /// with the lowest scores, ties to the lower index.
    /// @param distances of the pairs (0,1) (0,2) .. (1,2) ..
    /// @return selected bitmap over the vectors.
    function select(uint256[] memory distances, uint256 count, uint256 neighbours, uint256 winners)
        internal
        pure
        returns (uint256 selected)
    {
        uint256[] memory scores = new uint256[](count);
        uint256[] memory row = new uint256[](count - 1);
        for (uint256 a = 0; a < count; ++a) {
            scores[a] = _score(distances, row, a, count, neighbours);
        }
        assembly ("memory-safe") {
            let first := add(scores, 0x20)
            for {} winners { winners := sub(winners, 1) } {
                let best := 0
                let lowest := not(0)
                for { let a := 0 } lt(a, count) { a := add(a, 1) } {
                    let score := mload(add(first, shl(5, a)))
                    if lt(score, lowest) {
                        lowest := score
                        best := a
                    }
                }
                mstore(add(first, shl(5, best)), not(0)) // a score is below 2^133, so this one is never found again
                selected := or(selected, shl(best, 1))
            }
        }
    }

    /// @dev Insertion sort of the row of vector a; count is at most 24.
    function _score(uint256[] memory distances, uint256[] memory row, uint256 a, uint256 count, uint256 neighbours)
        private
        pure
        returns (uint256 score)
    {
        assembly ("memory-safe") {
            let first := add(row, 0x20)
            let end := first
            // pair (x, a), x < a: index x * (2 * count - x - 1) / 2 + a - x - 1; one row further: count - x - 2 more
            let pair := add(distances, shl(5, a)) // x = 0: index a - 1, behind the length word
            let step := shl(5, sub(count, 2))
            for { let x := 0 } lt(x, count) { x := add(x, 1) } {
                if iszero(eq(x, a)) {
                    let value := mload(pair)
                    let slot := end
                    for {} gt(slot, first) { slot := sub(slot, 0x20) } {
                        let before := mload(sub(slot, 0x20))
                        if iszero(gt(before, value)) { break }
                        mstore(slot, before)
                    }
                    mstore(slot, value)
                    end := add(end, 0x20)
                }
                switch lt(x, a)
                case 1 {
                    pair := add(pair, step)
                    step := sub(step, 0x20)
                }
                default { pair := add(pair, 0x20) }
            }
            for { let slot := add(first, shl(5, neighbours)) } gt(slot, first) {} {
                slot := sub(slot, 0x20)
                score := add(score, mload(slot))
            }
        }
    }
}
