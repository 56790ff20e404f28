// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IMarket} from "@market/IMarket.sol";
import {MarketBase} from "./MarketBase.sol";

/// @dev What calls cost, as transactions: 21,000, calldata, cold storage, and the calldata floor of EIP-7623.
contract MarketGasTest is MarketBase {
    event log_named_uint(string what, uint256 value);

    uint256 internal constant LIMIT = 12_000_000;
    uint256 internal constant MAX_BYTES = 120_000;

    function _measure(string memory what, address from, bytes memory call_, uint256 value) private returns (uint256 gas_) {
        uint256 zeros = 0;
        for (uint256 i = 0; i < call_.length; ++i) {
            if (call_[i] == 0) ++zeros;
        }
        uint256 tokens = zeros + 4 * (call_.length - zeros);
        isTrue(call_.length <= MAX_BYTES, "calldata over 120 kB");
        vm.cool(address(market));
        vm.prank(from);
        address to = address(market);
        uint256 used;
        assembly ("memory-safe") {
            let before := gas()
            let ok := call(gas(), to, value, add(call_, 0x20), mload(call_), 0, 0)
            used := sub(before, gas())
            if iszero(ok) {
                let pointer := mload(0x40)
                returndatacopy(pointer, 0, returndatasize())
                revert(pointer, returndatasize())
            }
        }
        gas_ = 21_000 + (4 * tokens + used > 10 * tokens ? 4 * tokens + used : 10 * tokens);
        emit log_named_uint(what, gas_);
        vm.snapshotValue("market", what, gas_); // contracts/snapshots/market.json; FORGE_SNAPSHOT_CHECK=true compares
        isTrue(gas_ < LIMIT, "over 12,000,000 gas");
    }

    function _shape(uint256 groups, uint256 size, uint256 bits, uint256 chunkWords, uint256 words) private {
        p.maxGroups = uint8(groups);
        p.groupSize = uint8(size);
        p.faultyGroups = groups > 4 ? 1 : 0;
        p.laneBits = uint8(bits);
        p.maxMagnitude = 1;
        p.chunkWords = uint16(chunkWords);
        p.valueCount = uint32(words * 256 / bits);
        p.postSeconds = 100_000;
        p.settleSeconds = 100_000;
        p.rate = 1e12;
        p.rounds = 1; // the last chunk also ends the task
        p.deposit = 1e12;
        p.stake = 1e14;
    }

    function _name(string memory what, uint256 groups, uint256 size, uint256 bits, uint256 words) private pure returns (string memory) {
        return
            string.concat(
                what, " G=", vm.toString(groups), " n=", vm.toString(size), " b=", vm.toString(bits), " words=", vm.toString(words)
            );
    }

    /// @dev Settles one round in chunks of chunkWords and holds each call against the bound: with sums that lie close together; with those
    /// of half of the groups anywhere; with those of all.
    function _settleShape(uint256 groups, uint256 size, uint256 bits, uint256 chunkWords, uint256 words) private {
        _shape(groups, size, bits, chunkWords, words);
        this.settleChunks("", 0);
        this.settleChunks(" half far", groups / 2);
        this.settleChunks(" all far", groups);
    }

    /// @dev Called from outside, so that each time has memory of its own.
    function settleChunks(string memory how, uint256 farGroups) external {
        nearGroups = p.maxGroups - farGroups;
        _start();
        _open();
        _commitAll();
        _postAll();
        for (uint256 chunk = 0; chunk < _chunks(); ++chunk) {
            string memory name = string.concat("settle ", vm.toString(chunk + 1), "/", vm.toString(_chunks()));
            this.settleChunk(chunk, string.concat(_name(name, p.maxGroups, p.groupSize, p.laneBits, p.chunkWords), how));
        }
        nearGroups = 0;
    }

    function settleChunk(uint256 chunk, string memory name) external {
        uint256 before = market.getTask(task).settlementPaid;
        bytes memory call_ = abi.encodeCall(market.settle, (task, ctx, chunk, _settleData(chunk)));
        uint256 got = _measure(name, _settler(chunk), call_, 0);
        uint256 paid = (market.getTask(task).settlementPaid - before) / 2 gwei;
        emit log_named_uint("   paid for", paid);
        isTrue(paid >= got, string.concat("reimbursed is less than what was used: ", name));
        isTrue(paid * 100 <= got * 130 + 10_000_000, string.concat("reimbursed is far more than what was used: ", name));
        uint256 words = _words() - chunk * p.chunkWords;
        if (words > p.chunkWords) words = p.chunkWords;
        uint256 most = market.settleGas(p.maxGroups, p.groupSize, words, p.laneBits, chunk + 1 == _chunks());
        isTrue(most >= paid, string.concat("the pot holds less than what is reimbursed: ", name));
    }

    function test_settle_small() external {
        _settleShape(3, 3, 16, 1, 2);
        _settleShape(6, 3, 16, 8, 24);
        _settleShape(6, 3, 16, 32, 64);
        _settleShape(6, 3, 8, 32, 64);
        _settleShape(6, 3, 32, 32, 64);
    }

    function test_settle_middle() external {
        _settleShape(10, 5, 16, 32, 96);
        _settleShape(10, 5, 8, 32, 32);
        _settleShape(10, 5, 32, 32, 32);
        _settleShape(5, 16, 16, 16, 32);
    }

    function test_settle_many_groups() external {
        _settleShape(24, 5, 16, 28, 56);
        _settleShape(24, 3, 16, 8, 16);
        _settleShape(24, 3, 8, 8, 16);
        _settleShape(24, 3, 32, 8, 8);
    }

    function test_settle_largest() external {
        _settleShape(24, 3, 8, 44, 88);
    }

    function test_settle_largest_numbers_of_owners() external {
        _settleShape(24, 5, 8, 30, 30);
        _settleShape(8, 16, 8, 28, 56);
    }

    function test_settle_longest() external {
        _settleShape(3, 3, 8, 150, 300);
        _settleShape(3, 3, 32, 1, 1);
    }

    function test_functions() external {
        (uint256 reward, uint256 pot) = market.escrowRequired(p);
        bytes32[] memory proof;
        _measure("createTask", MODEL_OWNER, abi.encodeCall(market.createTask, (p, MODEL_KEY, "{}")), reward + pot);
        task = 1;
        vm.deal(STRANGER, 1e20);
        _measure("join", STRANGER, abi.encodeCall(market.join, (1, _boxKey(STRANGER), "n", proof)), p.stake);
        _measure("leave while joining", STRANGER, abi.encodeCall(market.leave, (1)), 0);
        _joinAll(15);
        _measure("reveal", _owner(0), abi.encodeCall(market.reveal, (1, _nonce(_owner(0)))), 0);
        for (uint256 i = 1; i < 15; ++i) {
            _reveal(_owner(i));
        }
        vm.roll(market.getTask(task).closeBlock + 1);
        _measure("draw, 15 owners", STRANGER, abi.encodeCall(market.poke, (1)), 0);
        _readSeats();
        address[] memory seats = _seats();
        bytes32[] memory pads = _padHashes();
        for (uint256 round = 1; round <= 2; ++round) {
            _measure(
                string.concat("openRound ", vm.toString(round)),
                MODEL_OWNER,
                abi.encodeCall(market.openRound, (1, round, "m", "k", "h", 1, pads, new bytes(1000))),
                0
            );
            ctx = market.getTask(1).ctx;
            _measure(string.concat("commit, round ", vm.toString(round)), seats[0], abi.encodeCall(market.commit, (1, ctx, _root(0))), 0);
            for (uint256 seat = 1; seat < 14; ++seat) {
                _commit(seat);
            }
            _measure(
                string.concat("commit, the last, round ", vm.toString(round)),
                seats[14],
                abi.encodeCall(market.commit, (1, ctx, _root(14))),
                0
            );
            _deep();
            _measure(
                string.concat("post 96 bytes, round ", vm.toString(round)),
                seats[0],
                abi.encodeCall(market.post, (1, ctx, 0, _vector(ctx, 0), _terminal(0))),
                0
            );
            for (uint256 seat = 1; seat < 14; ++seat) {
                _post(seat);
            }
            _measure(
                string.concat("post 96 bytes, the last, round ", vm.toString(round)),
                seats[14],
                abi.encodeCall(market.post, (1, ctx, 0, _vector(ctx, 14), _terminal(14))),
                0
            );
            _settleAll();
        }
        // Which groups are selected is up to the vectors, which depend on the context.
        uint256 paid = 0;
        while (market.getPaidRounds(task)[paid / p.groupSize] == 0) paid += p.groupSize;
        _measure("withdraw pay", seats[paid], abi.encodeCall(market.withdraw, (_ids(), payable(seats[paid]))), 0);
    }

    /// @dev Six groups of three, each with pads of its own, named by the model owner.
    function test_model_selection() external {
        p.modelSelection = true;
        p.maxGroups = 6;
        _start();
        for (uint256 round = 1; round <= 2; ++round) {
            bytes32[] memory pads = _padHashes();
            isTrue(pads.length == 18, "a pad for every seat");
            _measure(
                string.concat("openRound ", vm.toString(round), ", 18 pads"),
                MODEL_OWNER,
                abi.encodeCall(market.openRound, (task, round, "m", "k", "h", 1, pads, new bytes(1000))),
                0
            );
            ctx = market.getTask(task).ctx;
            _commitAll();
            _postAll();
            _measure(
                string.concat("selectGroups, round ", vm.toString(round)),
                MODEL_OWNER,
                abi.encodeCall(market.selectGroups, (task, ctx, _choice())),
                0
            );
        }
    }

    /// @dev The receipt for all owners at once, where vectors do not cross the chain before they are settled.
    function test_acknowledge() external {
        p.brokerDelivery = true;
        _receipt("acknowledge, 15 owners");
        _asManyOwnersAsCanBe();
        _receipt("acknowledge, 128 owners");
    }

    function _receipt(string memory name) private {
        _start();
        _open();
        _commitAll();
        _deep();
        _measure(name, MODEL_OWNER, abi.encodeCall(market.acknowledge, (task, ctx, _committedSeats())), 0);
    }

    /// @dev What the market asks the checker for, as a transaction would pay it; a call from outside costs nothing.
    function test_answers_of_the_checker() external {
        _measure("escrowRequired", STRANGER, abi.encodeCall(market.escrowRequired, (p)), 0);
        _measure("settleGas", STRANGER, abi.encodeCall(market.settleGas, (24, 5, 28, 16, true)), 0);
    }

    function test_post_sizes() external {
        _shape(3, 3, 16, 32, 32);
        _postOne(32, "post 1,024 bytes");
        _shape(3, 3, 16, 32, 625);
        _postOne(625, "post 20,000 bytes");
        _shape(3, 3, 16, 32, 3125);
        _postOne(3125, "post 100,000 bytes");
        _shape(3, 3, 16, 1, 3125);
        p.settleSeconds = 30 days;
        _postOne(3125, "post 100,000 bytes in chunks of one word");
    }

    function _postOne(uint256 words, string memory name) private {
        _start();
        _open();
        _commitAll();
        _deep();
        address who = _seats()[4];
        uint256 got = _measure(name, who, abi.encodeCall(market.post, (task, ctx, 0, _vector(ctx, 4), _terminal(4))), 0);
        emit log_named_uint("   gas a byte x 100", got * 100 / (words * 32));
    }

    // ------------------------------------------------------------------ nothing is unbounded

    function test_largest_set_in_which_nobody_posts_or_reveals() external {
        _shape(8, 16, 8, 4, 4); // 128 owners
        _create();
        _joinAll(128);
        _revealAll(80);
        _pass();
        _measure("close of revealing, 48 of 128 nonces withheld", STRANGER, abi.encodeCall(market.poke, (task)), 0);
        vm.roll(market.getTask(task).closeBlock + 1);
        _measure("draw, 80 of 128 owners", STRANGER, abi.encodeCall(market.poke, (task)), 0);

        _create();
        for (uint256 i = 0; i < 128; ++i) {
            _join(_owner(i));
        }
        _revealAll(128);
        vm.roll(market.getTask(task).closeBlock + 1);
        _measure("draw, 128 owners", STRANGER, abi.encodeCall(market.poke, (task)), 0);
        _readSeats();
        _open();
        _commitAll();
        _deep();
        for (uint256 seat = 0; seat < 128; ++seat) {
            if (seat % 16 > 7) _post(seat);
        }
        _pass();
        _measure("close of posting, 64 slashed for 64 others", STRANGER, abi.encodeCall(market.poke, (task)), 0);
        _checkMoney(task);
    }

    function test_largest_number_of_groups() external {
        _shape(24, 5, 8, 4, 4);
        p.faultyGroups = 10;
        _create();
        _joinAll(120);
        _revealAll(5);
        _pass();
        _measure("close of revealing, 115 of 120 nonces withheld", STRANGER, abi.encodeCall(market.poke, (task)), 0);
        _start();
        _open();
        _commitAll();
        _deep();
        for (uint256 seat = 0; seat < 120; ++seat) {
            if (seat % 5 != 0) _post(seat);
        }
        _pass();
        _measure("close of posting, 24 slashed for 96 mates", STRANGER, abi.encodeCall(market.poke, (task)), 0);
        _start();
        _open();
        _commitAll();
        _postAll();
        _pass();
        _measure("late settlement, 24 groups", STRANGER, abi.encodeCall(market.poke, (task)), 0);
        p.modelSelection = true;
        _start();
        bytes32[] memory pads = _padHashes();
        _measure(
            "openRound 1, 120 pads", MODEL_OWNER, abi.encodeCall(market.openRound, (task, 1, "m", "k", "h", 1, pads, new bytes(1000))), 0
        );
        ctx = market.getTask(task).ctx;
        _commitAll();
        _postAll();
        _measure("selectGroups, 24 groups", MODEL_OWNER, abi.encodeCall(market.selectGroups, (task, ctx, _choice())), 0);
    }
}
