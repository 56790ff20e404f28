// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title Sums of ring vectors, lane by lane, and the squared distances between them.
/// @notice A word holds 256 / b lanes of b bits. Everything is computed for one word of all groups at a time, so memory stays small.
///
/// SUMS. Even and odd lanes of a word are added apart, each in a slot of 2b bits: no carry leaves its slot for up to 2^b owners.
///
/// DISTANCES. Wanted is the sum over lanes of lift(a - b)^2, lift to [-h, h), h = 2^(b-1). With y = (a - b + h) mod 2^b and
/// z = 2^b - y it is h^2 - y*z a lane. A multiplication of two words whose slots hold y in one order and z in the other order has the
/// sum of y*z over the slots as the coefficient of its last slot; slots are wide enough that no coefficient reaches the next one, and
/// what lies above the last slot is masked off. One word of lanes is spread over three such words, whatever b is; slots left over hold a zero difference, which the
/// constant h^2 a slot takes out again.
library RingSums {
    /// @dev slots * 3 is at least the lanes of a word, slots * slotBits at most 256, and 3 * slots * 2^(2b) below 2^slotBits, so that
    /// three products can be added before the last slot is read.
    struct Shape {
        uint256 slots;
        uint256 slotBits;
        uint256 mask; //  2^b - 1 in every slot
        uint256 ones; //  1 in every slot
        uint256 laneMask;
    }

    function shape(uint256 laneBits) internal pure returns (Shape memory s) {
        (s.slots, s.slotBits) = laneBits == 8 ? (uint256(11), uint256(23)) : laneBits == 16 ? (uint256(6), uint256(42)) : (uint256(3), uint256(80));
        for (uint256 i = 0; i < s.slots; ++i) {
            s.ones |= 1 << (i * s.slotBits);
        }
        s.laneMask = (1 << laneBits) - 1;
        s.mask = s.ones * s.laneMask;
    }

    /// @notice Adds to totals[pair] the squared distances between the sums of `groups` groups of `groupSize` owners over `words` words.
    /// @param data for each group, for each owner: 32 bytes that are skipped, then `words` words. The caller has checked the length.
    function addDistances(bytes calldata data, uint256 groups, uint256 groupSize, uint256 words, uint256 laneBits, uint256[] memory totals)
        internal
        pure
    {
        Shape memory s = shape(laneBits);
        uint256[] memory spread = new uint256[](groups * 6);
        uint256 half = 1 << (laneBits - 1);
        uint256 stride = 32 * (words + 1);
        for (uint256 word = 1; word <= words; ++word) {
            for (uint256 group = 0; group < groups; ++group) {
                uint256 place;
                assembly {
                    place := add(add(data.offset, shl(5, word)), mul(mul(group, groupSize), stride))
                }
                _spread(s, _sum(place, stride, groupSize, laneBits), laneBits, spread, group * 6);
            }
            _addPairs(s, spread, groups, half, totals);
        }
        uint256 zero = words * 3 * s.slots * half * half;
        for (uint256 pair = 0; pair < totals.length; ++pair) {
            unchecked {
                totals[pair] += zero;
            }
        }
    }

    /// @dev Lane-wise sum of the words at calldata positions place, place + stride, ..
    function _sum(uint256 place, uint256 stride, uint256 count, uint256 laneBits) private pure returns (uint256 sum) {
        assembly ("memory-safe") {
            let even := div(not(0), add(shl(laneBits, 1), 1)) // 2^b - 1 in every slot of 2b bits
            let low := 0
            let high := 0
            for { let end := add(place, mul(count, stride)) } lt(place, end) { place := add(place, stride) } {
                let value := calldataload(place)
                low := add(low, and(value, even))
                high := add(high, and(shr(laneBits, value), even))
            }
            sum := or(and(low, even), shl(laneBits, and(high, even)))
        }
    }

    /// @dev Writes the lanes of sum into three words of slots, then the same three with the slots in reverse order.
    function _spread(Shape memory s, uint256 sum, uint256 laneBits, uint256[] memory spread, uint256 index) private pure {
        assembly ("memory-safe") {
            let slots := mload(s)
            let bits := mload(add(s, 0x20))
            let laneMask := mload(add(s, 0x80))
            let out := add(add(spread, 0x20), shl(5, index))
            for { let end := add(out, 0x60) } lt(out, end) { out := add(out, 0x20) } {
                let forward := 0
                let backward := 0
                let limit := mul(slots, bits)
                for { let position := 0 } lt(position, limit) { position := add(position, bits) } {
                    let lane := and(sum, laneMask)
                    forward := or(forward, shl(position, lane))
                    backward := or(shl(bits, backward), lane)
                    sum := shr(laneBits, sum)
                }
                mstore(out, forward)
                mstore(add(out, 0x60), backward)
            }
        }
    }

    /// @dev Subtracts from each pair's total the sum of y*z (modulo 2^256: the constants are added at the end).
    function _addPairs(Shape memory s, uint256[] memory spread, uint256 groups, uint256 half, uint256[] memory totals) private pure {
        uint256 mask = s.mask;
        uint256 ones = s.ones;
        uint256 top = (s.slots - 1) * s.slotBits;
        uint256 slotMask = (1 << s.slotBits) - 1;
        // guard bit and bias: (a + biasY - b) & mask = y, (b + biasZ - a) & mask = 2^b - 1 - y
        uint256 biasY = ones * (3 * half);
        uint256 biasZ = biasY - ones;
        assembly ("memory-safe") {
            let total := add(totals, 0x20)
            let a := add(spread, 0x20)
            let end := add(a, mul(groups, 0xc0))
            for { let last := sub(end, 0xc0) } lt(a, last) { a := add(a, 0xc0) } {
                let y0 := add(mload(a), biasY)
                let y1 := add(mload(add(a, 0x20)), biasY)
                let y2 := add(mload(add(a, 0x40)), biasY)
                let z0 := sub(biasZ, mload(add(a, 0x60)))
                let z1 := sub(biasZ, mload(add(a, 0x80)))
                let z2 := sub(biasZ, mload(add(a, 0xa0)))
                for { let b := add(a, 0xc0) } lt(b, end) { b := add(b, 0xc0) } {
                    let product := mul(and(sub(y0, mload(b)), mask), add(and(add(z0, mload(add(b, 0x60))), mask), ones))
                    product := add(product, mul(and(sub(y1, mload(add(b, 0x20))), mask), add(and(add(z1, mload(add(b, 0x80))), mask), ones)))
                    product := add(product, mul(and(sub(y2, mload(add(b, 0x40))), mask), add(and(add(z2, mload(add(b, 0xa0))), mask), ones)))
                    mstore(total, sub(mload(total), and(shr(top, product), slotMask)))
                    total := add(total, 0x20)
                }
            }
        }
    }
}
