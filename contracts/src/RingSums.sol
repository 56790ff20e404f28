// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title Sums of ring vectors, lane by lane, and the squared distances between them.
/// @notice A word holds 256 / b lanes of b bits. Everything is computed for a block of four words of all groups at a time, so memory
/// stays small. Wanted is the sum over lanes of lift(a - b)^2, lift to [-h, h), h = 2^(b-1).
///
/// SUMS. Even and odd lanes of a word are added apart, each in a slot of 2b bits: no carry leaves its slot for up to 2^b owners.
///
/// NEAR GROUPS. Of each group's sums those of one group, the pivot, are taken away: c = lift(a - pivot). Where c is in
/// [-r, r) in every lane of the block, r = 2^(b-3), the group is near. That is half of the largest sum that honest owners can have. The
/// difference of two such c never wraps around, so the distance of near groups is c_a * c_a + c_b * c_b - 2 * c_a * c_b, and of G groups
/// only G * (G + 1) / 2 dot products are needed. A dot product is the coefficient of the last slot in the product of a word of
/// slots and another one in reverse order: every MUL does 128 / b lanes. Slots are signed. The sum of the two products
/// of a word stays in [-s, s], s = 2^(2b-1), in every slot, and adding s - 1 to each makes all of them at least 0, so that the
/// last one can be read. The s - 1 come in as often in c_a * c_a and c_b * c_b as in 2 * c_a * c_b: they leave by themselves.
///
/// FAR GROUPS. In a block where a group is not near, its distances to all others are computed in a way that is right for any sums.
/// With y = (a - b + h) mod 2^b, lift(a - b)^2 is h^2 - y * (2^b - y), and 2^b - y = z = (b - a + h) mod 2^b, but for y = 0, where the
/// product is 0 all the same. The slots are dealt into slots of 4b bits, which have room for such products. Where more than half
/// of the groups are far, the next group becomes the pivot: one group of random lanes costs its own pairs, not those of all.
library RingSums {
    uint256 private constant BLOCK_WORDS = 4;
    /// @dev Scratch memory of a group: even and odd lanes of four words; the same with their slots in reverse order; a product with
    /// each group up to itself, over all blocks so far (TaskBounds.MAX_GROUPS of them); what those were before the block.
    uint256 private constant GROUP_BYTES = 0x800;
    uint256 private constant PRODUCTS = 0x200;
    uint256 private constant PRODUCTS_BYTES = 0x300;

    /// @dev Kept in memory: what the optimiser knows to be an expression it works out again in every turn of a loop.
    struct Plan {
        uint256 laneBits; // b
        uint256 stride; //   bytes from an owner to the next
        uint256 size; //     bytes of a group
        uint256 inTwo; //    2^b - 1 in every slot of 2b bits
        uint256 range; //    r in every slot of 2b bits
        uint256 farBits; //  the two bits of each lane that c + r leaves clear where c is in [-r, r)
        uint256 bias; //     s - 1 in every slot of 2b bits
        uint256 lastTwo; //  where the last slot of 2b bits begins
        uint256 carry; //    2^b in every slot of 2b bits: no slot of a difference borrows from the next
        uint256 inFour; //   2^b - 1 in every slot of 4b bits
        uint256 half; //     2^b + h in every slot of 2b bits
        uint256 lastFour; // where the last slot of 4b bits begins
        uint256 squares; //  h^2 for every lane of a block
        uint256 low64; //    the low half of every 128 bits
        uint256 low32; //    the low half of every 64 bits
        uint256 low16; //    the low half of every 32 bits
        uint256[8] shift; // for each word of the block, what is added to its even lanes and to its odd ones
    }

    /// @notice Adds to totals[pair] the squared distances between the sums of `groups` groups of `groupSize` owners over `words` words.
    /// @param data for each group, for each owner: 32 bytes that are skipped, then `words` words. The caller has checked the length.
    /// @return farPairs what settle's gas depends on: over all blocks, the pairs with a group that is not near, see mostFarPairs.
    function addDistances(bytes calldata data, uint256 groups, uint256 groupSize, uint256 words, uint256 laneBits, uint256[] memory totals)
        internal
        pure
        returns (uint256 farPairs)
    {
        unchecked {
            uint256[] memory dealt = new uint256[](groups * (GROUP_BYTES / 32));
            Plan memory plan = _plan(groupSize, words, laneBits);
            uint256 pivot = 0;
            // The first block is the one that may be short: the words that it lacks are 0 in all groups, which is no difference.
            uint256 count = (words - 1) % BLOCK_WORDS + 1;
            for (uint256 word = 1; word <= words; word += count) {
                if (word != 1) count = BLOCK_WORDS;
                uint256 far = _deal(data, 32 * word, count, pivot, plan, dealt);
                if (far == 0) {
                    _multiplyPairs(plan, dealt);
                    continue;
                }
                uint256 farGroups = 0;
                for (uint256 bits = far; bits != 0; bits &= bits - 1) {
                    ++farGroups;
                }
                if (2 * farGroups > groups) {
                    farGroups = groups / 2;
                    pivot = (pivot + 1) % groups;
                    _addAllPairs(plan, dealt, totals);
                } else {
                    _keepProducts(dealt);
                    _multiplyPairs(plan, dealt);
                    _addFarPairs(plan, dealt, far, totals);
                }
                farPairs += _pairsWith(farGroups, groups);
            }
            _addNearPairs(dealt, totals);
        }
    }

    /// @notice The largest farPairs that addDistances can return. A block in which more than half of the groups are far is done without
    /// the products that would be of no use, and costs no more than one with half of them far: it counts as such a one.
    function mostFarPairs(uint256 groups, uint256 words) internal pure returns (uint256) {
        return (words + BLOCK_WORDS - 1) / BLOCK_WORDS * _pairsWith(groups / 2, groups);
    }

    /// @dev The pairs that contain at least one of so many groups.
    function _pairsWith(uint256 some, uint256 groups) private pure returns (uint256) {
        unchecked {
            return some * (2 * groups - some - 1) / 2;
        }
    }

    function _plan(uint256 groupSize, uint256 words, uint256 laneBits) private pure returns (Plan memory plan) {
        unchecked {
            uint256 all = type(uint256).max;
            uint256 lane = 1 << laneBits;
            plan.laneBits = laneBits;
            plan.stride = 32 * (words + 1);
            plan.size = groupSize * plan.stride;
            plan.inTwo = all / (lane + 1);
            uint256 ones = plan.inTwo / (lane - 1); // in every slot of 2b bits
            plan.range = ones * (lane / 8);
            plan.farBits = plan.range * 6 * (lane + 1);
            plan.bias = ones * (lane * lane / 2 - 1);
            plan.lastTwo = 256 - 2 * laneBits;
            plan.carry = ones * lane;
            plan.inFour = plan.inTwo / (lane * lane + 1);
            plan.half = plan.carry + ones * (lane / 2);
            plan.lastFour = 256 - 4 * laneBits;
            plan.squares = (256 / laneBits) * BLOCK_WORDS * (lane * lane / 4);
            plan.low64 = all / ((1 << 64) + 1);
            plan.low32 = all / ((1 << 32) + 1);
            plan.low16 = all / ((1 << 16) + 1);
        }
    }

    /// @dev Adds up a block of each group and deals its lanes, less those of the pivot. `start` is the place of the first owner's
    /// first word of the block in data.
    /// @return far bit g: group g is not near.
    function _deal(bytes calldata data, uint256 start, uint256 count, uint256 pivot, Plan memory plan, uint256[] memory dealt)
        private
        pure
        returns (uint256 far)
    {
        assembly ("memory-safe") {
            // One group: `place` is its first word in data, `to` its scratch memory. Returns the bits that any lane + shift has.
            function deal_group(place, to, bytes_, plan_) -> bits {
                let mask := mload(add(plan_, 0x60))
                let shift := mload(add(plan_, 0x200))
                for { let end := add(place, bytes_) } lt(place, end) { place := add(place, 0x20) } {
                    // Sums of whole words, and of their even lanes. What is left mod 2^256 are the odd lanes, in their own places.
                    let even := 0
                    let odd := 0
                    let stride := mload(add(plan_, 0x20))
                    let from := place
                    for { let last := add(from, mload(add(plan_, 0x40))) } lt(from, last) { from := add(from, stride) } {
                        let word := calldataload(from)
                        odd := add(odd, word)
                        even := add(even, and(word, mask))
                    }
                    odd := and(add(sub(odd, even), mload(add(shift, 0x20))), not(mask))
                    even := and(add(even, mload(shift)), mask)
                    let laneBits := mload(plan_)
                    let range := mload(add(plan_, 0x80))
                    mstore(to, sub(even, range))
                    mstore(add(to, 0x20), sub(shr(laneBits, odd), range))
                    let word := or(even, odd)
                    bits := or(bits, word)
                    word := or(shl(128, word), shr(128, word))
                    let low := mload(add(plan_, 0x1a0))
                    word := or(shl(64, and(word, low)), and(shr(64, word), low))
                    if lt(laneBits, 32) {
                        low := mload(add(plan_, 0x1c0))
                        word := or(shl(32, and(word, low)), and(shr(32, word), low))
                        if lt(laneBits, 16) {
                            low := mload(add(plan_, 0x1e0))
                            word := or(shl(16, and(word, low)), and(shr(16, word), low))
                        }
                    }
                    mstore(add(to, 0x100), sub(and(word, mask), range))
                    mstore(add(to, 0x120), sub(and(shr(laneBits, word), mask), range))
                    shift := add(shift, 0x40)
                    to := add(to, 0x40)
                }
            }
            let place := add(data.offset, start)
            let size := mload(add(plan, 0x40))
            let length := shl(5, count)
            let out := add(dealt, 0x20)
            // The pivot comes first, as it is; what was added to it is what has to be added to make it 0.
            let shift := mload(add(plan, 0x200))
            calldatacopy(shift, calldatasize(), 0x100)
            let from := add(out, mul(pivot, GROUP_BYTES))
            pop(deal_group(add(place, mul(pivot, size)), from, length, plan))
            for { let last := add(from, shl(1, length)) } lt(from, last) { from := add(from, 0x40) } {
                let carry := mload(add(plan, 0x100))
                mstore(shift, sub(carry, mload(from)))
                mstore(add(shift, 0x20), shl(mload(plan), sub(carry, mload(add(from, 0x20)))))
                shift := add(shift, 0x40)
            }
            let end := add(out, shl(5, mload(dealt)))
            for { let bit := 1 } lt(out, end) { bit := shl(1, bit) } {
                if and(deal_group(place, out, length, plan), mload(add(plan, 0xa0))) { far := or(far, bit) }
                place := add(place, size)
                out := add(out, GROUP_BYTES)
            }
        }
    }

    /// @dev Adds to each pair's products, and to each group's with itself, those of one block.
    function _multiplyPairs(Plan memory plan, uint256[] memory dealt) private pure {
        assembly ("memory-safe") {
            let bias := mload(add(plan, 0xc0))
            let last := mload(add(plan, 0xe0))
            let row := PRODUCTS
            let a := add(dealt, 0x20)
            for { let end := add(a, shl(5, mload(dealt))) } lt(a, end) { a := add(a, GROUP_BYTES) } {
                let even0 := mload(a)
                let odd0 := mload(add(a, 0x20))
                let even1 := mload(add(a, 0x40))
                let odd1 := mload(add(a, 0x60))
                let even2 := mload(add(a, 0x80))
                let odd2 := mload(add(a, 0xa0))
                let even3 := mload(add(a, 0xc0))
                let odd3 := mload(add(a, 0xe0))
                for { let b := a } lt(b, end) { b := add(b, GROUP_BYTES) } {
                    let sum := shr(last, add(bias, add(mul(even0, mload(add(b, 0x100))), mul(odd0, mload(add(b, 0x120))))))
                    sum := add(sum, shr(last, add(bias, add(mul(even1, mload(add(b, 0x140))), mul(odd1, mload(add(b, 0x160)))))))
                    sum := add(sum, shr(last, add(bias, add(mul(even2, mload(add(b, 0x180))), mul(odd2, mload(add(b, 0x1a0)))))))
                    sum := add(sum, shr(last, add(bias, add(mul(even3, mload(add(b, 0x1c0))), mul(odd3, mload(add(b, 0x1e0)))))))
                    let product := add(b, row)
                    mstore(product, add(mload(product), sum))
                }
                row := add(row, 0x20)
            }
        }
    }

    function _keepProducts(uint256[] memory dealt) private pure {
        assembly ("memory-safe") {
            let group := add(dealt, 0x20)
            for { let end := add(group, shl(5, mload(dealt))) } lt(group, end) { group := add(group, GROUP_BYTES) } {
                let products := add(group, PRODUCTS)
                mcopy(add(products, PRODUCTS_BYTES), products, PRODUCTS_BYTES)
            }
        }
    }

    /// @dev Adds to the totals of all pairs with a far group their distances in one block, less what _addNearPairs will make of it.
    function _addFarPairs(Plan memory plan, uint256[] memory dealt, uint256 far, uint256[] memory totals) private pure {
        unchecked {
            uint256 groups = dealt.length / (GROUP_BYTES / 32);
            uint256 all = (1 << groups) - 1;
            uint256 first;
            uint256 total; // of a pair (a, b), 32 * b further on
            assembly ("memory-safe") {
                first := add(dealt, 0x20)
                total := totals
            }
            for (uint256 a = 0; a < groups; ++a) {
                uint256 pa = first + a * GROUP_BYTES;
                uint256 row = PRODUCTS + 32 * a;
                uint256 own = _added(pa + row);
                // The groups behind a that make a far pair with it.
                uint256 others = (far >> a & 1 == 0 ? far : all) & ~((2 << a) - 1);
                while (others != 0) {
                    uint256 b;
                    assembly ("memory-safe") {
                        b := sub(255, clz(others))
                    }
                    others ^= 1 << b;
                    uint256 pb = first + b * GROUP_BYTES;
                    uint256 change = 2 * _added(pb + row) - own - _added(pb + PRODUCTS + 32 * b) + _distance(plan, pa, pb);
                    assembly ("memory-safe") {
                        let place := add(total, shl(5, b))
                        mstore(place, add(mload(place), change))
                    }
                }
                // From (a, b) to (a + 1, b) are as many pairs as there are behind a + 1.
                total += 32 * (groups - a - 2);
            }
        }
    }

    /// @dev Adds to the totals of all pairs their distances in one block.
    function _addAllPairs(Plan memory plan, uint256[] memory dealt, uint256[] memory totals) private pure {
        unchecked {
            uint256 first;
            uint256 total;
            assembly ("memory-safe") {
                first := add(dealt, 0x20)
                total := add(totals, 0x20)
            }
            uint256 end = first + 32 * dealt.length;
            for (uint256 a = first; a < end; a += GROUP_BYTES) {
                for (uint256 b = a + GROUP_BYTES; b < end; b += GROUP_BYTES) {
                    uint256 distance = _distance(plan, a, b);
                    assembly ("memory-safe") {
                        mstore(total, add(mload(total), distance))
                    }
                    total += 32;
                }
            }
        }
    }

    /// @dev What a block has added to a product.
    function _added(uint256 product) private pure returns (uint256 result) {
        assembly ("memory-safe") {
            result := sub(mload(product), mload(add(product, PRODUCTS_BYTES)))
        }
    }

    /// @dev The squared distance of two groups in one block, right for any sums. What is in an even slot of y is in an odd one of z.
    function _distance(Plan memory plan, uint256 a, uint256 b) private pure returns (uint256 result) {
        assembly ("memory-safe") {
            let inTwo := mload(add(plan, 0x60))
            let inFour := mload(add(plan, 0x120))
            let half := mload(add(plan, 0x140))
            let twice := shl(1, mload(plan))
            for { let end := add(a, 0x100) } lt(a, end) { a := add(a, 0x40) } {
                let y := and(add(half, sub(mload(a), mload(b))), inTwo)
                let z := and(add(half, sub(mload(add(b, 0x100)), mload(add(a, 0x100)))), inTwo)
                result := add(result, mul(and(y, inFour), and(shr(twice, z), inFour)))
                result := add(result, mul(and(shr(twice, y), inFour), and(z, inFour)))
                y := and(add(half, sub(mload(add(a, 0x20)), mload(add(b, 0x20)))), inTwo)
                z := and(add(half, sub(mload(add(b, 0x120)), mload(add(a, 0x120)))), inTwo)
                result := add(result, mul(and(y, inFour), and(shr(twice, z), inFour)))
                result := add(result, mul(and(shr(twice, y), inFour), and(z, inFour)))
                b := add(b, 0x40)
            }
            result := sub(mload(add(plan, 0x180)), shr(mload(add(plan, 0x160)), result))
        }
    }

    function _addNearPairs(uint256[] memory dealt, uint256[] memory totals) private pure {
        assembly ("memory-safe") {
            let total := add(totals, 0x20)
            let row := PRODUCTS
            let a := add(dealt, 0x20)
            for { let end := add(a, shl(5, mload(dealt))) } lt(a, end) { a := add(a, GROUP_BYTES) } {
                let own := row
                for { let b := add(a, GROUP_BYTES) } lt(b, end) { b := add(b, GROUP_BYTES) } {
                    own := add(own, 0x20)
                    let both := add(mload(add(a, row)), mload(add(b, own)))
                    mstore(total, add(mload(total), sub(both, shl(1, mload(add(b, row))))))
                    total := add(total, 0x20)
                }
                row := add(row, 0x20)
            }
        }
    }
}
