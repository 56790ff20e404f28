// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @dev What a reader of docs/protocol.md would write, one lane at a time.
library Naive {
    function lane(bytes memory vector, uint256 index, uint256 laneBits) internal pure returns (uint256 value) {
        uint256 size = laneBits / 8;
        for (uint256 i = 0; i < size; ++i) {
            value = value << 8 | uint8(vector[index * size + i]);
        }
    }

    function lift(uint256 value, uint256 laneBits) internal pure returns (int256) {
        return value >= 1 << (laneBits - 1) ? int256(value) - int256(1 << laneBits) : int256(value);
    }

    /// @param vectors of all owners, group by group.
    function distances(bytes[] memory vectors, uint256 groupSize, uint256 laneBits) internal pure returns (uint256[] memory result) {
        uint256 groups = vectors.length / groupSize;
        uint256 lanes = vectors[0].length * 8 / laneBits;
        uint256[][] memory sums = new uint256[][](groups);
        for (uint256 g = 0; g < groups; ++g) {
            sums[g] = new uint256[](lanes);
            for (uint256 i = 0; i < lanes; ++i) {
                for (uint256 p = 0; p < groupSize; ++p) {
                    sums[g][i] += lane(vectors[g * groupSize + p], i, laneBits);
                }
                sums[g][i] %= 1 << laneBits;
            }
        }
        result = new uint256[](groups * (groups - 1) / 2);
        uint256 pair = 0;
        for (uint256 a = 0; a < groups; ++a) {
            for (uint256 b = a + 1; b < groups; ++b) {
                for (uint256 i = 0; i < lanes; ++i) {
                    int256 difference = lift((sums[a][i] + (1 << laneBits) - sums[b][i]) % (1 << laneBits), laneBits);
                    result[pair] += uint256(difference * difference);
                }
                ++pair;
            }
        }
    }

    function krum(uint256[] memory d, uint256 count, uint256 neighbours, uint256 winners) internal pure returns (uint256 selected) {
        uint256[] memory scores = new uint256[](count);
        for (uint256 a = 0; a < count; ++a) {
            bool[] memory used = new bool[](count);
            for (uint256 n = 0; n < neighbours; ++n) {
                uint256 nearest = type(uint256).max;
                uint256 who = 0;
                for (uint256 b = 0; b < count; ++b) {
                    if (b == a || used[b]) continue;
                    uint256 value = at(d, count, a < b ? a : b, a < b ? b : a);
                    if (value < nearest) (nearest, who) = (value, b);
                }
                used[who] = true;
                scores[a] += nearest;
            }
        }
        for (uint256 n = 0; n < winners; ++n) {
            uint256 who = count;
            for (uint256 a = 0; a < count; ++a) {
                if (selected >> a & 1 == 0 && (who == count || scores[a] < scores[who])) who = a;
            }
            selected |= 1 << who;
        }
    }

    function at(uint256[] memory d, uint256 count, uint256 a, uint256 b) internal pure returns (uint256) {
        uint256 index = 0;
        for (uint256 row = 0; row < a; ++row) {
            index += count - 1 - row;
        }
        return d[index + b - a - 1];
    }
}
