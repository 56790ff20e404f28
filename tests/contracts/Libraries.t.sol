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
