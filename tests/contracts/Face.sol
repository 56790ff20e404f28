// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {BoxKeys} from "@market/BoxKeys.sol";
import {CommitmentChain} from "@market/CommitmentChain.sol";
import {Krum} from "@market/Krum.sol";
import {RingSums} from "@market/RingSums.sol";

/// @dev The market's libraries as a contract without state: their tests, the mutation run and the differential run call it.
contract Face {
    function acceptable(bytes32 key) external pure returns (bool) {
        return BoxKeys.acceptable(key);
    }

    function tag(bytes32 ctx, uint256 seat) external pure returns (bytes32) {
        return CommitmentChain.tag(ctx, seat);
    }

    function terminal(bytes32 ctx, uint256 seat) external pure returns (bytes32) {
        return CommitmentChain.terminal(ctx, seat);
    }

    function head(bytes32 ctx, uint256 seat, uint256 firstChunk, uint256 chunkWords, bytes calldata data, bytes32 next)
        external
        pure
        returns (bytes32)
    {
        return CommitmentChain.head(CommitmentChain.tag(ctx, seat), firstChunk, chunkWords * 32, data, next);
    }

    function step(bytes32 ctx, uint256 seat, uint256 chunk, uint256 words, bytes calldata data, uint256 owner)
        external
        pure
        returns (bytes32, bytes32)
    {
        return CommitmentChain.step(ctx, seat, chunk, words, data, owner);
    }

    function distances(bytes calldata data, uint256 groups, uint256 groupSize, uint256 words, uint256 laneBits)
        external
        pure
        returns (uint256[] memory totals)
    {
        totals = new uint256[](groups * (groups - 1) / 2);
        RingSums.addDistances(data, groups, groupSize, words, laneBits, totals);
    }

    function farPairs(bytes calldata data, uint256 groups, uint256 groupSize, uint256 words, uint256 laneBits)
        external
        pure
        returns (uint256 found, uint256 most)
    {
        uint256[] memory totals = new uint256[](groups * (groups - 1) / 2);
        found = RingSums.addDistances(data, groups, groupSize, words, laneBits, totals);
        most = RingSums.mostFarPairs(groups, words);
    }

    function select(uint256[] memory d, uint256 count, uint256 neighbours, uint256 winners) external pure returns (uint256) {
        return Krum.select(d, count, neighbours, winners);
    }

    /// @dev All that settle computes from one chunk: the link and the next link of each owner, the running totals with the chunk's
    /// distances added, and the selection from them.
    function chunk(
        bytes32 ctx,
        uint256 number,
        uint256 groups,
        uint256 groupSize,
        uint256 words,
        uint256 laneBits,
        uint256 faulty,
        uint256[] memory totals,
        bytes calldata data
    ) external pure returns (bytes32[] memory links, bytes32[] memory nexts, uint256[] memory, uint256 loose, uint256 strict) {
        links = new bytes32[](groups * groupSize);
        nexts = new bytes32[](links.length);
        for (uint256 owner = 0; owner < links.length; ++owner) {
            (links[owner], nexts[owner]) = CommitmentChain.step(ctx, owner, number, words, data, owner);
        }
        RingSums.addDistances(data, groups, groupSize, words, laneBits, totals);
        loose = Krum.select(totals, groups, groups - faulty - 2, groups - faulty);
        strict = Krum.select(totals, groups, groups - faulty - 2, groups - faulty - 2);
        return (links, nexts, totals, loose, strict);
    }
}
