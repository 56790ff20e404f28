// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {Face} from "./Face.sol";
import {Naive} from "./Naive.sol";
import {Test} from "./Test.sol";

contract LibrariesTest is Test {
    uint256 internal constant LINK_MASK = (1 << 208) - 1;
    Face internal face = Face(vm.deployCode(vm.envOr("FACE_ARTIFACT", string("Face.sol:Face")))); // the mutation run names others

    function _interleave(bytes[] memory vectors) private pure returns (bytes memory data) {
        for (uint256 i = 0; i < vectors.length; ++i) {
            data = bytes.concat(data, keccak256(abi.encode(i)), vectors[i]); // the link is skipped
        }
    }

    function _case(string memory kind, uint256 index, string memory field) private pure returns (string memory) {
        return string.concat(".", kind, vm.toString(index), ".", field);
    }

    // ------------------------------------------------------------------ ring sums

    function test_distances_are_those_of_the_shared_vectors() external view {
        string memory json = vm.readFile("../tests/vectors/ring_sums.json");
        uint256 count = vm.parseJsonUint(json, ".count");
        for (uint256 i = 0; i < count; ++i) {
            (uint256[] memory got, uint256[] memory wanted) = _ringCase(json, "case", i);
            for (uint256 pair = 0; pair < wanted.length; ++pair) {
                equal(got[pair], wanted[pair], string.concat("distance, case ", vm.toString(i)));
            }
            equal(got.length, wanted.length, "pairs");
        }
    }

    /// @dev Of the bad cases, those whose distances are wrong (the others have wrong sums, which the contract never shows).
    function test_distances_are_not_those_of_the_bad_vectors() external view {
        string memory json = vm.readFile("../tests/vectors/ring_sums.json");
        uint256 count = vm.parseJsonUint(json, ".badCount");
        uint256 caught = 0;
        for (uint256 i = 0; i < count; ++i) {
            (uint256[] memory got, uint256[] memory wanted) = _ringCase(json, "bad", i);
            if (keccak256(abi.encode(got)) != keccak256(abi.encode(wanted))) ++caught;
        }
        isTrue(caught >= 3, "wrong distances accepted");
    }

    function _ringCase(string memory json, string memory kind, uint256 i)
        private
        view
        returns (uint256[] memory got, uint256[] memory wanted)
    {
        bytes[] memory vectors = vm.parseJsonBytesArray(json, _case(kind, i, "vectors"));
        wanted = vm.parseJsonUintArray(json, _case(kind, i, "distances"));
        got = face.distances(
            _interleave(vectors),
            vm.parseJsonUint(json, _case(kind, i, "groupCount")),
            vm.parseJsonUint(json, _case(kind, i, "groupSize")),
            vm.parseJsonUint(json, _case(kind, i, "wordCount")),
            vm.parseJsonUint(json, _case(kind, i, "laneBits"))
        );
    }

    function testFuzz_distances_equal_naive(uint256 seed, uint8 width, uint8 groups_, uint8 size_, uint8 words_, uint8 extreme)
        external
        view
    {
        uint256 laneBits = 8 << (width % 3);
        uint256 groups = bound(groups_, 2, 5);
        uint256 size = bound(size_, 1, 4);
        uint256 words = bound(words_, 1, 2);
        bytes[] memory vectors = new bytes[](groups * size);
        for (uint256 i = 0; i < vectors.length; ++i) {
            for (uint256 w = 0; w < words; ++w) {
                uint256 word = uint256(keccak256(abi.encode(seed, i, w)));
                // also words full of the lanes at which signs, carries and borrows turn
                if (extreme % 4 == 1) word = _edges(word, laneBits);
                if (extreme % 4 == 2) word = word % 2 == 0 ? 0 : type(uint256).max;
                vectors[i] = bytes.concat(vectors[i], bytes32(word));
            }
        }
        uint256[] memory got = face.distances(_interleave(vectors), groups, size, words, laneBits);
        uint256[] memory wanted = Naive.distances(vectors, size, laneBits);
        for (uint256 pair = 0; pair < wanted.length; ++pair) {
            equal(got[pair], wanted[pair], "distance");
        }
    }

    function _edges(uint256 random, uint256 laneBits) private pure returns (uint256 word) {
        uint256 half = 1 << (laneBits - 1);
        uint256[6] memory edges = [uint256(0), 1, half - 1, half, half + 1, 2 * half - 1];
        for (uint256 i = 0; i < 256 / laneBits; ++i) {
            word |= edges[(random >> (4 * i)) % 6] << (i * laneBits);
        }
    }

    /// @dev The largest possible sums of products in every slot, over many words: no carry from below reaches the top coefficient.
    function test_distances_saturated() external view {
        for (uint256 laneBits = 8; laneBits <= 32; laneBits *= 2) {
            for (uint256 kind = 0; kind < 3; ++kind) {
                uint256 ones = type(uint256).max / ((1 << laneBits) - 1);
                uint256 lanes = 256 / laneBits;
                uint256 value =
                    kind == 0 ? uint256(1) << (laneBits - 1) : kind == 1 ? (uint256(1) << (laneBits - 1)) - 1 : (1 << laneBits) - 1;
                bytes memory far = new bytes(0);
                for (uint256 w = 0; w < 200; ++w) {
                    far = bytes.concat(far, bytes32(ones * value));
                }
                bytes[] memory vectors = new bytes[](2);
                (vectors[0], vectors[1]) = (far, new bytes(far.length));
                int256 lifted = Naive.lift(value, laneBits);
                uint256[] memory got = face.distances(_interleave(vectors), 2, 1, 200, laneBits);
                equal(got[0], 200 * lanes * uint256(lifted * lifted), "saturated");
                (vectors[0], vectors[1]) = (vectors[1], vectors[0]);
                got = face.distances(_interleave(vectors), 2, 1, 200, laneBits);
                equal(got[0], 200 * lanes * uint256(lifted * lifted), "saturated, the other way");
            }
        }
    }

    /// @dev One lane of one group at the limits of what is near, in every place of a block: even and odd lanes, first and last words.
    function test_near_and_far_at_the_limits() external view {
        for (uint256 laneBits = 8; laneBits <= 32; laneBits *= 2) {
            uint256 full = 1 << laneBits;
            uint256 range = full / 8;
            uint256[4] memory values = [range - 1, range, full - range, full - range - 1];
            for (uint256 i = 0; i < 4; ++i) {
                for (uint256 lane = 0; lane < 1280 / laneBits; lane += 11) {
                    bytes[] memory vectors = new bytes[](4);
                    for (uint256 group = 0; group < 4; ++group) {
                        vectors[group] = _constant(77, laneBits, 5);
                    }
                    _put(vectors[2], lane, laneBits, (77 + values[i]) % full);
                    uint256 far = _sameAsNaive(vectors, 1, laneBits);
                    equal(far, i % 2 == 0 ? 0 : 3, "far pairs of one group in one of two blocks");
                }
            }
        }
    }

    /// @dev The largest sums of products that near groups can have, over as many words as a call can have.
    function test_near_groups_saturated() external view {
        for (uint256 laneBits = 8; laneBits <= 32; laneBits *= 2) {
            uint256 range = 1 << (laneBits - 3);
            bytes[] memory vectors = new bytes[](4);
            vectors[0] = _constant(9, laneBits, 2047);
            vectors[1] = _constant(9 + range - 1, laneBits, 2047);
            vectors[2] = _constant((9 + 7 * range) % (1 << laneBits), laneBits, 2047);
            vectors[3] = vectors[2];
            uint256[] memory got = face.distances(_interleave(vectors), 4, 1, 2047, laneBits);
            uint256 lanes = 2047 * 256 / laneBits;
            equal(got[0], lanes * (range - 1) ** 2, "0 to r - 1");
            equal(got[1], lanes * range ** 2, "0 to -r");
            equal(got[3], lanes * (2 * range - 1) ** 2, "-r to r - 1");
            equal(got[5], 0, "-r to -r");
            (uint256 far,) = face.farPairs(_interleave(vectors), 4, 1, 2047, laneBits);
            equal(far, 0, "all are near");
        }
    }

    /// @dev Random lanes in the first group: one block, after which the second group is what the others are compared with.
    function test_a_far_pivot_is_left() external view {
        for (uint256 laneBits = 8; laneBits <= 32; laneBits *= 2) {
            bytes[] memory vectors = new bytes[](6);
            for (uint256 group = 0; group < 6; ++group) {
                vectors[group] = _constant(group, laneBits, 10);
            }
            for (uint256 lane = 0; lane < 2560 / laneBits; ++lane) {
                _put(vectors[0], lane, laneBits, uint256(keccak256(abi.encode(lane))) % (1 << laneBits));
            }
            // ten words are three blocks: in the first half of the groups counts, 3 + 4 + 5 pairs; then only the first group's five
            equal(_sameAsNaive(vectors, 1, laneBits), 12 + 5 + 5, "far pairs");
        }
    }

    /// @dev Near and far groups, block by block, in all shapes.
    function testFuzz_distances_of_near_and_far_groups(uint256 seed, uint8 width, uint8 groups_, uint8 size_, uint8 words_) external view {
        uint256 laneBits = 8 << (width % 3);
        uint256 size = bound(size_, 1, 3);
        uint256 words = bound(words_, 1, 10);
        bytes[] memory vectors = new bytes[](bound(groups_, 2, 6) * size);
        uint256 range = 1 << (laneBits - 3);
        for (uint256 i = 0; i < vectors.length; ++i) {
            vectors[i] = new bytes(words * 32);
            for (uint256 lane = 0; lane < words * 256 / laneBits; ++lane) {
                uint256 random = uint256(keccak256(abi.encode(seed, i, lane)));
                bool far = uint256(keccak256(abi.encode(seed, i / size, lane * laneBits / 1024))) % 4 == 0;
                if (!far) random = i % size == 0 ? uint256(keccak256(abi.encode(seed, lane))) + random % range : 0; // common pads
                _put(vectors[i], lane, laneBits, random % (1 << laneBits));
            }
        }
        _sameAsNaive(vectors, size, laneBits);
    }

    function _sameAsNaive(bytes[] memory vectors, uint256 size, uint256 laneBits) private view returns (uint256 far) {
        bytes memory data = _interleave(vectors);
        uint256 words = vectors[0].length / 32;
        uint256[] memory got = face.distances(data, vectors.length / size, size, words, laneBits);
        uint256[] memory wanted = Naive.distances(vectors, size, laneBits);
        for (uint256 pair = 0; pair < wanted.length; ++pair) {
            equal(got[pair], wanted[pair], "distance");
        }
        uint256 most;
        (far, most) = face.farPairs(data, vectors.length / size, size, words, laneBits);
        isTrue(far <= most, "no more far pairs than there can be");
    }

    function _constant(uint256 value, uint256 laneBits, uint256 words) private pure returns (bytes memory vector) {
        uint256 word = type(uint256).max / ((1 << laneBits) - 1) * value;
        vector = new bytes(words * 32);
        for (uint256 w = 0; w < words; ++w) {
            assembly ("memory-safe") {
                mstore(add(vector, add(0x20, shl(5, w))), word)
            }
        }
    }

    function _put(bytes memory vector, uint256 lane, uint256 laneBits, uint256 value) private pure {
        uint256 size = laneBits / 8;
        for (uint256 i = 0; i < size; ++i) {
            vector[lane * size + i] = bytes1(uint8(value >> (8 * (size - 1 - i))));
        }
    }

    // ------------------------------------------------------------------ Krum

    function test_krum_selects_as_the_shared_vectors() external view {
        string memory json = vm.readFile("../tests/vectors/krum.json");
        uint256 count = vm.parseJsonUint(json, ".count");
        for (uint256 i = 0; i < count; ++i) {
            equal(_krumCase(json, "case", i), vm.parseJsonUint(json, _case("case", i, "bitmap")), "selected");
        }
        count = vm.parseJsonUint(json, ".badCount");
        uint256 tried = 0;
        for (uint256 i = 0; i < count; ++i) {
            uint256 claimed = vm.parseJsonUint(json, _case("bad", i, "bitmap"));
            if (claimed == 0) continue; // fewer than 2f + 3 groups: Market never asks
            ++tried;
            isTrue(_krumCase(json, "bad", i) != claimed, "bad selection accepted");
        }
        isTrue(tried != 0, "no bad cases");
    }

    function _krumCase(string memory json, string memory kind, uint256 i) private view returns (uint256) {
        uint256 groups = vm.parseJsonUint(json, _case(kind, i, "groups"));
        uint256 faulty = vm.parseJsonUint(json, _case(kind, i, "faulty"));
        bool strict = vm.parseJsonBool(json, _case(kind, i, "strict"));
        uint256[] memory distances = vm.parseJsonUintArray(json, _case(kind, i, "distances"));
        return face.select(distances, groups, groups - faulty - 2, groups - faulty - (strict ? 2 : 0));
    }

    function testFuzz_krum_equals_naive(uint256 seed, uint8 count_, uint8 faulty_, bool strict, uint8 spread) external view {
        uint256 count = bound(count_, 3, 10);
        uint256 faulty = bound(faulty_, 0, (count - 3) / 2);
        uint256[] memory d = new uint256[](count * (count - 1) / 2);
        for (uint256 i = 0; i < d.length; ++i) {
            d[i] = uint256(keccak256(abi.encode(seed, i))) % (spread % 2 == 0 ? 4 : 2 ** 100); // small ones: many ties
        }
        uint256 winners = count - faulty - (strict ? 2 : 0);
        equal(face.select(d, count, count - faulty - 2, winners), Naive.krum(d, count, count - faulty - 2, winners), "selected");
    }

    // ------------------------------------------------------------------ commitment chain

    function test_chain_is_that_of_the_shared_vectors() external view {
        string memory json = vm.readFile("../tests/vectors/commitment.json");
        uint256 count = vm.parseJsonUint(json, ".count");
        for (uint256 i = 0; i < count; ++i) {
            _chainCase(json, i);
        }
    }

    function _chainCase(string memory json, uint256 i) private view {
        bytes32 ctx = vm.parseJsonBytes32(json, _case("case", i, "ctx"));
        uint256 seat = vm.parseJsonUint(json, _case("case", i, "seat"));
        uint256 chunkWords = vm.parseJsonUint(json, _case("case", i, "chunkWords"));
        bytes memory vector = vm.parseJsonBytes(json, _case("case", i, "vector"));
        bytes32[] memory links = vm.parseJsonBytes32Array(json, _case("case", i, "links"));
        equal(face.tag(ctx, seat), vm.parseJsonBytes32(json, _case("case", i, "tag")), "tag");
        equal(face.terminal(ctx, seat), vm.parseJsonBytes32(json, _case("case", i, "terminal")), "terminal");
        bytes32 root = face.head(ctx, seat, 0, chunkWords, vector, face.terminal(ctx, seat));
        equal(root, vm.parseJsonBytes32(json, _case("case", i, "root")), "root");
        equal(uint256(root) & LINK_MASK, vm.parseJsonUint(json, _case("case", i, "keptRoot")), "kept root");
        uint256[] memory first = vm.parseJsonUintArray(json, _case("case", i, "partFirst"));
        bytes[] memory parts = vm.parseJsonBytesArray(json, _case("case", i, "partData"));
        bytes32[] memory nexts = vm.parseJsonBytes32Array(json, _case("case", i, "partNextLink"));
        for (uint256 part = 0; part < parts.length; ++part) {
            equal(face.head(ctx, seat, first[part], chunkWords, parts[part], nexts[part]), links[first[part]], "link of a part");
        }
        // chunk by chunk, as settle reads it, behind another owner's data
        for (uint256 chunk = 0; chunk + 1 < links.length; ++chunk) {
            uint256 start = chunk * chunkWords * 32;
            uint256 size = vector.length - start < chunkWords * 32 ? vector.length - start : chunkWords * 32;
            bytes memory piece = new bytes(size);
            for (uint256 k = 0; k < size; ++k) {
                piece[k] = vector[start + k];
            }
            bytes memory data = bytes.concat(new bytes(size + 32), links[chunk + 1], piece);
            (bytes32 link, bytes32 next) = face.step(ctx, seat, chunk, size / 32, data, 1);
            equal(link, links[chunk], "link of a chunk");
            equal(next, links[chunk + 1], "next link");
        }
    }

    function test_chain_refuses_the_bad_vectors() external view {
        string memory json = vm.readFile("../tests/vectors/commitment.json");
        uint256 count = vm.parseJsonUint(json, ".badCount");
        for (uint256 i = 0; i < count; ++i) {
            bytes32 ctx = vm.parseJsonBytes32(json, _case("bad", i, "ctx"));
            uint256 seat = vm.parseJsonUint(json, _case("bad", i, "seat"));
            uint256 chunkWords = vm.parseJsonUint(json, _case("bad", i, "chunkWords"));
            uint256 left = vm.parseJsonUint(json, _case("bad", i, "wordCount")) * 32;
            bytes memory data = vm.parseJsonBytes(json, _case("bad", i, "data"));
            bytes32 next = vm.parseJsonBytes32(json, _case("bad", i, "nextLink"));
            // the rules of Market._checkPart
            if (vm.parseJsonUint(json, _case("bad", i, "firstChunk")) != 0) continue;
            if (data.length != left && (data.length == 0 || data.length > left || data.length % (chunkWords * 32) != 0)) continue;
            if (data.length == left && next != face.terminal(ctx, seat)) continue;
            uint256 link = uint256(face.head(ctx, seat, 0, chunkWords, data, next)) & LINK_MASK;
            isTrue(link != vm.parseJsonUint(json, _case("bad", i, "keptRoot")), "bad vector accepted");
        }
    }

    // ------------------------------------------------------------------ box keys

    function test_low_order_and_odd_keys_are_refused() external view {
        bytes32[7] memory low = [
            bytes32(0),
            bytes32(uint256(1) << 248),
            0xe0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800,
            0x5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157,
            0xecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f,
            0xedffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f,
            0xeeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
        ];
        for (uint256 i = 0; i < low.length; ++i) {
            isTrue(!face.acceptable(low[i]), "low order");
            isTrue(!face.acceptable(low[i] | bytes32(uint256(0x80))), "low order, high bit set");
        }
        isTrue(!face.acceptable(0xffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f), "above p");
        isTrue(!face.acceptable(0x09000000000000000000000000000000000000000000000000000000000000ff), "high bit");
    }

    function test_ordinary_keys_are_accepted() external view {
        isTrue(face.acceptable(0x0900000000000000000000000000000000000000000000000000000000000000), "base point");
        isTrue(face.acceptable(0xebffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f), "p - 2");
        isTrue(face.acceptable(0xecfffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe7f), "near p - 1");
        isTrue(face.acceptable(0x85a0a0ab4f1d6ba01bd2ee8c8d1ee7a4a07bb9b6c4e2f8d0e25d9d1a7d1a2b3c), "any");
    }
}
