// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IMarket} from "./IMarket.sol";
import {Krum} from "./Krum.sol";
import {RingSums} from "./RingSums.sol";

/// @title What a task may ask for, and what it costs.
library TaskBounds {
    uint256 internal constant MAX_GROUPS = 24;
    uint256 internal constant MAX_SEATS = 128;
    uint256 internal constant MAX_SECONDS = 30 days;
    uint256 internal constant MAX_CALL_GAS = 12_000_000;
    uint256 internal constant MAX_CALL_BYTES = 120_000;

    /// @notice Reverts with BadParameter where a parameter is out of bounds.
    /// @return reward for all rounds.
    /// @return pot for all settle calls of all rounds at the gas price cap.
    function check(IMarket.TaskParams calldata p) internal view returns (uint256 reward, uint256 pot) {
        _between("groupSize", p.groupSize, 3, 16);
        _between("maxGroups", p.maxGroups, 2 * uint256(p.faultyGroups) + 3, MAX_GROUPS);
        uint256 owners = uint256(p.groupSize) * p.maxGroups;
        _between("groupSize * maxGroups", owners, 0, MAX_SEATS);
        if (p.laneBits != 8 && p.laneBits != 16) _between("laneBits", p.laneBits, 32, 32);
        _between("maxMagnitude", p.maxMagnitude, 1, ((1 << (p.laneBits - 2)) - 1) / p.groupSize);
        _between("valueCount", p.valueCount, 1, 1 << 24);
        uint256 words = wordCount(p.valueCount, p.laneBits);
        _between("chunkWords", p.chunkWords, 1, type(uint16).max);
        uint256 chunks = chunkCount(words, p.chunkWords);
        _between("chunks", chunks, 1, type(uint16).max);
        _between("rounds", p.rounds, 1, type(uint16).max);
        _between("maxEmptyRounds", p.maxEmptyRounds, 1, type(uint8).max);
        _between("maxMissedRounds", p.maxMissedRounds, 1, type(uint8).max);
        _between("depth", p.depth, 0, type(uint8).max);
        _between("blockSeconds", p.blockSeconds, 1, 3600);
        _between("joinSeconds", p.joinSeconds, 1, MAX_SECONDS);
        _between("revealSeconds", p.revealSeconds, p.blockSeconds, MAX_SECONDS);
        _between("openSeconds", p.openSeconds, 1, MAX_SECONDS);
        _between("commitSeconds", p.commitSeconds, uint256(p.blockSeconds) * (uint256(p.depth) + 2), MAX_SECONDS);
        _between("postSeconds", p.postSeconds, leastPostSeconds(p, words, owners), MAX_SECONDS);
        _between("turnSeconds", p.turnSeconds, 1, MAX_SECONDS);
        // every settler may let its turn pass, and the round is still settled in time; or the model owner sees the last post final, and answers
        uint256 leastSettle =
            p.modelSelection ? uint256(p.blockSeconds) * (uint256(p.depth) + 2) : (chunks + 1) * (uint256(p.turnSeconds) + p.blockSeconds);
        _between("settleSeconds", p.settleSeconds, leastSettle, MAX_SECONDS);
        _between("rate", p.rate, 1, type(uint96).max);
        _between("stake", p.stake, uint256(p.groupSize) * p.rate + p.deposit, type(uint80).max);
        _between("gasTip", p.gasTip, 0, p.gasPriceCap);
        reward = owners * p.rate * p.rounds;
        if (p.modelSelection) return (reward, 0); // nobody settles: no call has to fit, and no pot is needed
        uint256 most = words < p.chunkWords ? words : p.chunkWords;
        _between("settle calldata", 260 + owners * 32 * (1 + most), 0, MAX_CALL_BYTES);
        _between("settle gas", settleGas(p.maxGroups, p.groupSize, most, p.laneBits, true), 0, MAX_CALL_GAS);
        pot = roundGas(p, words, chunks) * p.gasPriceCap * p.rounds;
    }

    function wordCount(uint256 valueCount, uint256 laneBits) internal pure returns (uint256) {
        return (valueCount * laneBits + 255) / 256;
    }

    function chunkCount(uint256 words, uint256 chunkWords) internal pure returns (uint256) {
        return (words + chunkWords - 1) / chunkWords;
    }

    /// @notice How many running totals of distances the market keeps in one storage slot. Each is below 2^(2b+22): a squared difference of
    /// two lanes is at most 2^(2b-2), and a vector has at most 2^24 of them. The slot's top bits stay free.
    function totalsInSlot(uint256 laneBits) internal pure returns (uint256) {
        return laneBits == 8 ? 6 : laneBits == 16 ? 4 : 2;
    }

    /// @notice Gas of all settle calls of a round with all groups complete.
    function roundGas(IMarket.TaskParams calldata p, uint256 words, uint256 chunks) internal pure returns (uint256) {
        uint256 lastWords = words - (chunks - 1) * p.chunkWords;
        return (chunks - 1) * settleGas(p.maxGroups, p.groupSize, p.chunkWords, p.laneBits, false)
            + settleGas(p.maxGroups, p.groupSize, lastWords, p.laneBits, true);
    }

    /// @notice The time that all owners' posts take when they get a quarter of each block, between two finality depths.
    function leastPostSeconds(IMarket.TaskParams calldata p, uint256 words, uint256 owners) internal view returns (uint256) {
        uint256 size = words * 32;
        uint256 postGas = owners * (40 * size + 120_000 * (1 + size / 100_000));
        uint256 share = (block.gaslimit < 60_000_000 ? block.gaslimit : 60_000_000) / 4 + 1;
        return p.blockSeconds * (2 * uint256(p.depth) + 1 + (postGas + share - 1) / share);
    }

    /// @notice An upper bound of the gas of a settle call, calldata floor included, whatever the vectors are.
    function settleGas(uint256 groups, uint256 groupSize, uint256 words, uint256 laneBits, bool lastChunk) internal pure returns (uint256) {
        return callGas(groups, groupSize, words, laneBits, lastChunk, RingSums.mostFarPairs(groups, words));
    }

    /// @notice An upper bound of the gas of a settle call, calldata floor included, for vectors of which RingSums.addDistances has found
    /// so many far pairs: who settles is paid for what a poisoned group made it cost.
    /// @dev Measured terms: tests/contracts/MarketGas.t.sol holds it against many shapes, and to a quarter above what they use.
    function callGas(uint256 groups, uint256 groupSize, uint256 words, uint256 laneBits, bool lastChunk, uint256 farPairs)
        internal
        pure
        returns (uint256)
    {
        uint256 owners = groups * groupSize;
        uint256 size = 260 + owners * 32 * (1 + words);
        uint256 work = 110_000 + owners * (4_600 + 125 * words) + farPairs * 2_100;
        {
            uint256 pairs = groups * (groups - 1) / 2;
            uint256 blocks = (words + 3) / 4;
            work += pairs * (1_000 + 5_000 / totalsInSlot(laneBits) + 315 * blocks);
            work += groups * (600 * blocks + (laneBits == 8 ? 470 : 430) * words);
        }
        if (lastChunk) work += 20_000 + groups * 5_000 + groups ** 3 * 12;
        work += 16 * size;
        return 21_000 + (work > 40 * size ? work : 40 * size);
    }

    function _between(bytes32 name, uint256 value, uint256 least, uint256 most) private pure {
        if (value < least) revert IMarket.BadParameter(_text(name), value, least);
        if (value > most) revert IMarket.BadParameter(_text(name), value, most);
    }

    function _text(bytes32 name) private pure returns (string memory) {
        uint256 length = 0;
        while (length < 32 && name[length] != 0) ++length;
        bytes memory text = new bytes(length);
        for (uint256 i = 0; i < length; ++i) {
            text[i] = name[i];
        }
        return string(text);
    }
}

/// @title TaskBounds and Krum as a contract of its own, without state.
/// @notice Market deploys one with itself: its own code has to stay below EIP-170's limit.
contract TaskChecker {
    function escrowRequired(IMarket.TaskParams calldata params) external view returns (uint256 reward, uint256 pot) {
        return TaskBounds.check(params);
    }

    function settleGas(uint256 groups, uint256 groupSize, uint256 words, uint256 laneBits, bool lastChunk) external pure returns (uint256) {
        return TaskBounds.settleGas(groups, groupSize, words, laneBits, lastChunk);
    }

    function callGas(uint256 groups, uint256 groupSize, uint256 words, uint256 laneBits, bool lastChunk, uint256 farPairs)
        external
        pure
        returns (uint256)
    {
        return TaskBounds.callGas(groups, groupSize, words, laneBits, lastChunk, farPairs);
    }

    /// @return selected bitmap over all groups, from Multi-Krum over the `count` complete ones.
    function select(uint256[] memory distances, uint256 count, uint256 neighbours, uint256 winners, uint256 complete)
        external
        pure
        returns (uint256 selected)
    {
        unchecked {
            uint256 chosen = Krum.select(distances, count, neighbours, winners);
            for (uint256 group = 0; chosen != 0; ++group) {
                if ((complete >> group) & 1 == 0) continue;
                selected |= (chosen & 1) << group;
                chosen >>= 1;
            }
        }
    }
}
