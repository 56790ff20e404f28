// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title Sums of ring vectors, lane by lane, and the squared distances between them.
/// @notice A word holds 256 / b lanes of b bits. Everything is computed for one word of all groups at a time, so memory stays small.
///
/// SUMS. Even and odd lanes of a word are added apart, each in a slot of 2b bits: no carry leaves its slot for up to 2^b owners.
///
/// DISTANCES. Wanted is the sum over lanes of lift(a - b)^2, lift to [-h, h), h = 2^(b-1). With y = (a - b + h) mod 2^b it is
/// h^2 - y * (2^b - y) a lane, and 2^b - y = z = (b - a + h) mod 2^b, but for y = 0, where the product is 0 all the same. The lanes of
/// a word are dealt into four words with a lane in every slot of 4b bits. The product of such a word of y and one of z in reverse
/// order has the sum of y * z as the coefficient of its last slot: every MUL does 64 / b lanes. Lower coefficients stay in their slots
/// and higher ones fall off at 2^256. There is room to add up the products of 2,048 words before the last slot is read.
library RingSums {
    /// @dev Scratch memory a group: four words of its lanes, then the same four with their slots reversed.
    uint256 private constant GROUP_BYTES = 0x100;

    /// @notice Adds to totals[pair] the squared distances between the sums of `groups` groups of `groupSize` owners over `words` words.
    /// @param data for each group, for each owner: 32 bytes that are skipped, then `words` words (fewer than 2,048). The caller has
    /// checked the length.
    function addDistances(bytes calldata data, uint256 groups, uint256 groupSize, uint256 words, uint256 laneBits, uint256[] memory totals)
        internal
        pure
    {
        uint256[] memory products = new uint256[](totals.length);
        uint256[] memory dealt = new uint256[](groups * 8);
        Plan memory plan = _plan(groupSize, words, laneBits);
        unchecked {
            for (uint256 word = 1; word <= words; ++word) {
                _deal(data, 32 * word, plan, dealt);
                _multiplyPairs(plan, dealt, products);
            }
            uint256 constants = words * (256 / laneBits) << (2 * laneBits - 2); // h^2 a lane
            uint256 lastSlot = 256 - 4 * laneBits;
            for (uint256 pair = 0; pair < totals.length; ++pair) {
                totals[pair] += constants - (products[pair] >> lastSlot);
            }
        }
    }

    /// @dev Kept in memory: what the optimiser knows to be an expression it works out again in every turn of a loop.
    struct Plan {
        uint256 laneBits; // b
        uint256 twice; //    2b
        uint256 stride; //   bytes from an owner to the next
        uint256 size; //     bytes of a group
        uint256 inTwo; //   2^b - 1 in every slot of 2b bits
        uint256 inFour; //  2^b - 1 in every slot of 4b bits
        uint256 bias; //    h + 2^b in every slot of 4b bits: of y and z, with a guard that no slot of a difference borrows from the next
        uint256 low64; //   the low half of every 128 bits
        uint256 low32; //   the low half of every 64 bits
    }

    function _plan(uint256 groupSize, uint256 words, uint256 laneBits) private pure returns (Plan memory plan) {
        plan.laneBits = laneBits;
        plan.twice = 2 * laneBits;
        plan.stride = 32 * (words + 1);
        plan.size = groupSize * plan.stride;
        uint256 all = type(uint256).max;
        plan.inTwo = all / ((1 << laneBits) + 1);
        plan.inFour = plan.inTwo / ((1 << (2 * laneBits)) + 1);
        plan.bias = plan.inFour / ((1 << laneBits) - 1) * (3 << (laneBits - 1));
        plan.low64 = all / ((1 << 64) + 1);
        plan.low32 = all / ((1 << 32) + 1);
    }

    /// @dev For each group: adds up one word of its owners and deals the lanes. `start` is the place of the first owner's word in data.
    function _deal(bytes calldata data, uint256 start, Plan memory plan, uint256[] memory dealt) private pure {
        assembly ("memory-safe") {
            function reverse(word, bits, plan_) -> result {
                result := or(shl(128, word), shr(128, word))
                if lt(bits, 32) {
                    let low := mload(add(plan_, 0xe0))
                    result := or(shl(64, and(result, low)), and(shr(64, result), low))
                    if lt(bits, 16) {
                        low := mload(add(plan_, 0x100))
                        result := or(shl(32, and(result, low)), and(shr(32, result), low))
                    }
                }
            }
            let laneBits := mload(plan)
            let twice := mload(add(plan, 0x20))
            let stride := mload(add(plan, 0x40))
            let size := mload(add(plan, 0x60))
            let inTwo := mload(add(plan, 0x80))
            let inFour := mload(add(plan, 0xa0))
            let place := add(data.offset, start)
            let out := add(dealt, 0x20)
            for { let end := add(out, shl(5, mload(dealt))) } lt(out, end) { out := add(out, GROUP_BYTES) } {
                let even := 0
                let odd := 0
                for { let last := add(place, size) } lt(place, last) { place := add(place, stride) } {
                    let word := calldataload(place)
                    even := add(even, and(word, inTwo))
                    odd := add(odd, and(shr(laneBits, word), inTwo))
                }
                mstore(out, and(even, inFour))
                mstore(add(out, 0x20), and(shr(twice, even), inFour))
                mstore(add(out, 0x40), and(odd, inFour))
                mstore(add(out, 0x60), and(shr(twice, odd), inFour))
                even := reverse(even, laneBits, plan)
                odd := reverse(odd, laneBits, plan)
                mstore(add(out, 0x80), and(even, inFour))
                mstore(add(out, 0xa0), and(shr(twice, even), inFour))
                mstore(add(out, 0xc0), and(odd, inFour))
                mstore(add(out, 0xe0), and(shr(twice, odd), inFour))
            }
        }
    }

    /// @dev Adds to each pair's products those of one word.
    function _multiplyPairs(Plan memory plan, uint256[] memory dealt, uint256[] memory products) private pure {
        assembly ("memory-safe") {
            let mask := mload(add(plan, 0xa0))
            let bias := mload(add(plan, 0xc0))
            let product := add(products, 0x20)
            let a := add(dealt, 0x20)
            let end := add(a, shl(5, mload(dealt)))
            for { let last := sub(end, GROUP_BYTES) } lt(a, last) { a := add(a, GROUP_BYTES) } {
                let b := add(a, GROUP_BYTES)
                let y0 := add(bias, mload(a))
                let y1 := add(bias, mload(add(a, 0x20)))
                let y2 := add(bias, mload(add(a, 0x40)))
                let y3 := add(bias, mload(add(a, 0x60)))
                let z0 := sub(bias, mload(add(a, 0x80)))
                let z1 := sub(bias, mload(add(a, 0xa0)))
                let z2 := sub(bias, mload(add(a, 0xc0)))
                let z3 := sub(bias, mload(add(a, 0xe0)))
                for {} lt(b, end) { b := add(b, GROUP_BYTES) } {
                    let sum := mul(and(sub(y0, mload(b)), mask), and(add(z0, mload(add(b, 0x80))), mask))
                    sum := add(sum, mul(and(sub(y1, mload(add(b, 0x20))), mask), and(add(z1, mload(add(b, 0xa0))), mask)))
                    sum := add(sum, mul(and(sub(y2, mload(add(b, 0x40))), mask), and(add(z2, mload(add(b, 0xc0))), mask)))
                    sum := add(sum, mul(and(sub(y3, mload(add(b, 0x60))), mask), and(add(z3, mload(add(b, 0xe0))), mask)))
                    mstore(product, add(mload(product), sum))
                    product := add(product, 0x20)
                }
            }
        }
    }
}
