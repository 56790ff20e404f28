// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IMarket} from "@market/IMarket.sol";
import {Test} from "./Test.sol";

/// @dev A market, a model owner and as many data owners as a test wants, and the steps of a task.
abstract contract MarketBase is Test {
    address internal constant MODEL_OWNER = address(0xA11CE);
    address internal constant STRANGER = address(0x57A26E);
    bytes32 internal constant MODEL_KEY = bytes32(uint256(0xABC) << 128);

    IMarket internal market;
    IMarket.TaskParams internal p;
    uint256 internal task;
    bytes32 internal ctx;
    /// @dev So many groups, the first ones, have sums that lie close together, as honest ones do. Those of the others are anywhere.
    uint256 internal nearGroups;
    mapping(uint256 taskId => address[]) internal seated; // by seat, read from the contract after the draw

    function setUp() public virtual {
        // by name: compiled once, not once a test contract; the mutation run names another
        market = IMarket(vm.deployCode(vm.envOr("MARKET_ARTIFACT", string("Market.sol:Market"))));
        p = _params();
        vm.roll(1000);
        vm.warp(1_800_000_000);
        vm.fee(1 gwei);
        vm.deal(MODEL_OWNER, 1e30);
        vm.deal(STRANGER, 1e24);
    }

    /// @dev Five groups of three, one of them faulty; 40 values of 16 bits: three words, two chunks.
    function _params() internal pure returns (IMarket.TaskParams memory) {
        return IMarket.TaskParams({
            groupSize: 3,
            maxGroups: 5,
            faultyGroups: 1,
            strictSelection: false,
            modelSelection: false,
            brokerDelivery: false,
            laneBits: 16,
            maxMagnitude: 1000,
            valueCount: 40,
            chunkWords: 2,
            rounds: 3,
            maxEmptyRounds: 3,
            maxMissedRounds: 2,
            depth: 2,
            blockSeconds: 12,
            joinSeconds: 600,
            revealSeconds: 300,
            openSeconds: 1000,
            commitSeconds: 400,
            postSeconds: 500,
            settleSeconds: 600,
            turnSeconds: 50,
            rate: 1e15 + 1,
            stake: 5e15,
            deposit: 1e15,
            gasPriceCap: 20 gwei,
            gasTip: 1 gwei,
            allowlistRoot: 0
        });
    }

    /// @dev Eight groups of sixteen: 128 seats, and amounts and times that allow for them.
    function _asManyOwnersAsCanBe() internal {
        p.groupSize = 16;
        p.maxGroups = 8;
        p.maxMagnitude = 1;
        p.rate = 1e12;
        p.deposit = 1e12;
        p.stake = 1e14;
        p.postSeconds = 100_000;
        p.settleSeconds = 100_000;
    }

    // ------------------------------------------------------------------ who and what

    function _owner(uint256 index) internal pure returns (address) {
        return address(uint160(0x10000 + index));
    }

    function _boxKey(address account) internal pure returns (bytes32) {
        return bytes32(uint256(uint160(account)) << 8);
    }

    function _nonce(address account) internal pure returns (bytes32) {
        return keccak256(abi.encode("nonce", account));
    }

    function _seats() internal view returns (address[] memory) {
        return seated[task];
    }

    function _readSeats() internal {
        address[] storage accounts = seated[task];
        uint256 count = uint256(market.getTask(task).groupCount) * p.groupSize;
        IMarket.Member[] memory members = market.getMembers(task);
        for (uint256 seat = 0; seat < count; ++seat) {
            accounts.push();
        }
        for (uint256 i = 0; i < members.length; ++i) {
            if (members[i].seat != 255) accounts[members[i].seat] = members[i].account;
        }
    }

    function _words() internal view returns (uint256) {
        return (uint256(p.valueCount) * p.laneBits + 255) / 256;
    }

    /// @dev The masked vector of a seat: any bytes do.
    function _vector(bytes32 ctx_, uint256 seat) internal view virtual returns (bytes memory vector) {
        uint256 words = _words();
        vector = new bytes(words * 32);
        for (uint256 w = 0; w < words; ++w) {
            bytes32 word = keccak256(abi.encode(ctx_, seat, w));
            if ((seat + 1) % p.groupSize == 0 && seat / p.groupSize < nearGroups) {
                word = bytes32(_lastLanes(ctx_, seat, w, 0) | _lastLanes(ctx_, seat, w, p.laneBits) << p.laneBits);
            }
            assembly ("memory-safe") {
                mstore(add(vector, add(0x20, shl(5, w))), word)
            }
        }
    }

    /// @dev Every other lane, from bit `from` on, of the vector that together with its group's other ones gives the pads and a small sum.
    function _lastLanes(bytes32 ctx_, uint256 seat, uint256 w, uint256 from) private view returns (uint256 lanes) {
        uint256 even = type(uint256).max / ((1 << p.laneBits) + 1);
        uint256 ones = even / ((1 << p.laneBits) - 1);
        uint256 pads = uint256(keccak256(abi.encode(ctx_, w)));
        lanes = (ones << (p.laneBits + 4)) + (pads >> from & even) + (uint256(keccak256(abi.encode(pads, seat))) >> from & ones);
        for (uint256 other = seat + 1 - p.groupSize; other < seat; ++other) {
            lanes -= uint256(keccak256(abi.encode(ctx_, other, w))) >> from & even;
        }
        return lanes & even;
    }

    function _slice(bytes memory all, uint256 from, uint256 size) internal pure returns (bytes memory part) {
        part = new bytes(size);
        assembly ("memory-safe") {
            mcopy(add(part, 0x20), add(add(all, 0x20), from), size)
        }
    }

    /// @dev links of a vector, written down from docs/protocol.md.
    function _links(bytes32 ctx_, uint256 seat, bytes memory vector) internal view returns (bytes32[] memory links) {
        uint256 chunkBytes = uint256(p.chunkWords) * 32;
        uint256 count = (vector.length + chunkBytes - 1) / chunkBytes;
        links = new bytes32[](count + 1);
        links[count] = keccak256(abi.encode(2, ctx_, seat));
        bytes32 tag = keccak256(abi.encode(0, ctx_, seat));
        for (uint256 j = count; j > 0; --j) {
            uint256 start = (j - 1) * chunkBytes;
            uint256 size = vector.length - start < chunkBytes ? vector.length - start : chunkBytes;
            links[j - 1] = keccak256(bytes.concat(tag, bytes32(j - 1), links[j], _slice(vector, start, size)));
        }
    }

    function _root(uint256 seat) internal view returns (bytes32) {
        return _links(ctx, seat, _vector(ctx, seat))[0];
    }

    function _terminal(uint256 seat) internal view returns (bytes32) {
        return keccak256(abi.encode(2, ctx, seat));
    }

    // ------------------------------------------------------------------ steps

    function _create() internal returns (uint256) {
        (uint256 reward, uint256 pot) = market.escrowRequired(p);
        vm.prank(MODEL_OWNER);
        task = market.createTask{value: reward + pot}(p, MODEL_KEY, "{}");
        return task;
    }

    function _join(address account) internal {
        vm.deal(account, 1e24);
        bytes32[] memory proof;
        vm.prank(account);
        market.join{value: p.stake}(task, _boxKey(account), keccak256(abi.encode(task, account, _nonce(account))), proof);
    }

    function _joinAll(uint256 count) internal {
        for (uint256 i = 0; i < count; ++i) {
            _join(_owner(i));
        }
    }

    function _reveal(address account) internal {
        vm.prank(account);
        market.reveal(task, _nonce(account));
    }

    function _revealAll(uint256 count) internal {
        for (uint256 i = 0; i < count; ++i) {
            _reveal(_owner(i));
        }
    }

    function _draw() internal {
        vm.roll(market.getTask(task).closeBlock + 1);
        market.poke(task);
        _readSeats();
    }

    /// @dev Created, joined by all, revealed, drawn.
    function _start() internal {
        _create();
        uint256 count = uint256(p.groupSize) * p.maxGroups;
        _joinAll(count);
        _revealAll(count);
        _draw();
    }

    /// @dev One for each position of a group; where the model owner selects, one for each seat.
    function _padHashes() internal view returns (bytes32[] memory hashes) {
        hashes = new bytes32[](p.groupSize * (p.modelSelection ? uint256(market.getTask(task).groupCount) : 1));
        for (uint256 i = 0; i < hashes.length; ++i) {
            hashes[i] = keccak256(abi.encode("pad", i));
        }
    }

    function _open() internal virtual {
        uint256 round = uint256(market.getTask(task).round) + 1;
        bytes32[] memory pads = _padHashes();
        vm.prank(MODEL_OWNER);
        market.openRound(task, round, "model", "key", keccak256("payload"), 1, pads, "payload");
        ctx = market.getTask(task).ctx;
    }

    function _commit(uint256 seat) internal {
        bytes32 root = _root(seat);
        address account = seated[task][seat];
        vm.prank(account);
        market.commit(task, ctx, root);
    }

    function _commitGroup(uint256 group) internal {
        for (uint256 seat = group * p.groupSize; seat < (group + 1) * p.groupSize; ++seat) {
            _commit(seat);
        }
    }

    function _commitAll() internal {
        uint256 groups = market.getTask(task).groupCount;
        for (uint256 group = 0; group < groups; ++group) {
            _commitGroup(group);
        }
    }

    function _acknowledge(uint256 seats) internal {
        vm.prank(MODEL_OWNER);
        market.acknowledge(task, ctx, seats);
    }

    /// @dev The seats of all fully committed groups.
    function _committedSeats() internal view returns (uint256 seats) {
        uint256 committed = market.getTask(task).committed;
        for (uint256 group = 0; committed >> group != 0; ++group) {
            if (committed >> group & 1 == 1) seats |= ((1 << p.groupSize) - 1) << (group * p.groupSize);
        }
    }

    function _deep() internal {
        vm.roll(uint256(market.getTask(task).closeBlock) + p.depth);
    }

    function _post(uint256 seat) internal {
        bytes memory vector = _vector(ctx, seat);
        bytes32 terminal = _terminal(seat);
        address account = seated[task][seat];
        vm.prank(account);
        market.post(task, ctx, 0, vector, terminal);
    }

    function _postGroup(uint256 group) internal {
        for (uint256 seat = group * p.groupSize; seat < (group + 1) * p.groupSize; ++seat) {
            _post(seat);
        }
    }

    function _postAll() internal {
        _deep();
        uint256 groups = market.getTask(task).groupCount;
        uint256 committed = market.getTask(task).committed;
        for (uint256 group = 0; group < groups; ++group) {
            if (committed >> group & 1 == 1) _postGroup(group);
        }
    }

    function _settleData(uint256 chunk) internal view returns (bytes memory data) {
        IMarket.TaskState memory s = market.getTask(task);
        uint256 start = chunk * p.chunkWords * 32;
        uint256 size = _words() * 32 - start;
        if (size > uint256(p.chunkWords) * 32) size = uint256(p.chunkWords) * 32;
        uint256 owners;
        for (uint256 group = 0; group < s.groupCount; ++group) {
            if (uint256(s.complete) >> group & 1 == 1) owners += p.groupSize;
        }
        data = new bytes(owners * (size + 32));
        uint256 at_ = 0;
        for (uint256 seat = 0; seat < uint256(s.groupCount) * p.groupSize; ++seat) {
            if (uint256(s.complete) >> (seat / p.groupSize) & 1 == 0) continue;
            bytes memory vector = _vector(ctx, seat);
            bytes32 next = _links(ctx, seat, vector)[chunk + 1];
            assembly ("memory-safe") {
                let to := add(add(data, 0x20), at_)
                mstore(to, next)
                mcopy(add(to, 0x20), add(add(vector, 0x20), start), size)
            }
            at_ += size + 32;
        }
    }

    function _chunks() internal view returns (uint256) {
        return (_words() + p.chunkWords - 1) / p.chunkWords;
    }

    /// @dev Whose turn it is, from public state only.
    function _settler(uint256 chunk) internal view returns (address) {
        IMarket.TaskState memory s = market.getTask(task);
        address[] memory seats = _seats();
        uint256 owners = 0;
        for (uint256 seat = 0; seat < seats.length; ++seat) {
            if (uint256(s.complete) >> (seat / p.groupSize) & 1 == 1) ++owners;
        }
        uint256 turn = (s.round + chunk) % owners;
        for (uint256 seat = 0; seat < seats.length; ++seat) {
            if (uint256(s.complete) >> (seat / p.groupSize) & 1 == 0) continue;
            if (turn == 0) return seats[seat];
            --turn;
        }
        revert("nobody");
    }

    function _settle(uint256 chunk) internal {
        bytes memory data = _settleData(chunk);
        address settler = _settler(chunk);
        vm.prank(settler);
        market.settle(task, ctx, chunk, data);
    }

    function _settleAll() internal {
        uint256 chunks = _chunks();
        for (uint256 chunk = 0; chunk < chunks; ++chunk) {
            _settle(chunk);
        }
    }

    /// @dev How many of the complete groups are selected.
    function _winners() internal view returns (uint256) {
        return _countBits(market.getTask(task).complete) - p.faultyGroups - (p.strictSelection ? 2 : 0);
    }

    /// @dev Which groups the model owner names: the first ones, where a test does not choose others.
    function _choice() internal virtual returns (uint256 selected) {
        uint256 complete = market.getTask(task).complete;
        uint256 left = _winners();
        for (uint256 group = 0; left != 0; ++group) {
            if (complete >> group & 1 == 0) continue;
            selected |= 1 << group;
            --left;
        }
    }

    function _select(uint256 selected) internal {
        vm.prank(MODEL_OWNER);
        market.selectGroups(task, ctx, selected);
    }

    /// @dev From the close of posting to the end of the round, whoever selects.
    function _finishRound() internal {
        if (p.modelSelection) _select(_choice());
        else _settleAll();
    }

    function _round() internal {
        _open();
        _commitAll();
        _postAll();
        _finishRound();
    }

    function _countBits(uint256 bitmap) internal pure returns (uint256 count) {
        for (; bitmap != 0; bitmap >>= 1) {
            count += bitmap & 1;
        }
    }

    function _pass() internal {
        vm.warp(uint256(market.getTask(task).phaseEnd) + 1);
        vm.roll(vm.getBlockNumber() + 1);
    }

    function _withdraw(address account) internal returns (uint256 got) {
        uint256 before = account.balance;
        uint256[] memory ids = _ids();
        vm.prank(account);
        market.withdraw(ids, payable(account));
        got = account.balance - before;
    }

    function _ids() internal view returns (uint256[] memory ids) {
        ids = new uint256[](1);
        ids[0] = task;
    }

    // ------------------------------------------------------------------ what must always hold

    function _checkMoney(uint256 id) internal view {
        IMarket.TaskState memory s = market.getTask(id);
        bool over = s.status == IMarket.TaskStatus.Ended || s.status == IMarket.TaskStatus.Cancelled;
        isTrue(uint256(s.paid) + s.settlementPaid + s.refunded <= s.escrow, "more than the escrow went out");
        if (over) equal(uint256(s.paid) + s.settlementPaid + s.refunded, s.escrow, "nothing stays locked at the end");
        equal(s.slashed, uint256(s.compensation) + s.burned, "slashed = compensation + burned");
        IMarket.Member[] memory members = market.getMembers(id);
        uint256 held = 0;
        for (uint256 i = 0; i < members.length; ++i) {
            held += members[i].stake;
        }
        equal(s.stakesIn, uint256(s.stakesOut) + s.slashed + held, "stakes in = out + slashed + held");
        uint256[] memory paidRounds = market.getPaidRounds(id);
        uint256 total = 0;
        for (uint256 g = 0; g < paidRounds.length; ++g) {
            isTrue(paidRounds[g] <= s.round, "a group was paid twice a round");
            total += paidRounds[g];
        }
        equal(s.paid, total * p.groupSize * p.rate, "paid = groups paid * groupSize * rate");
    }

    function _status() internal view returns (IMarket.TaskStatus) {
        return market.getTask(task).status;
    }

    function _phase() internal view returns (IMarket.RoundPhase) {
        return market.getTask(task).phase;
    }
}
