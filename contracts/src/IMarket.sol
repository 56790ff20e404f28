// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title The OmniLytics market: the manual of the contract.
/// @notice One contract holds many tasks of many model owners. A task: data owners join with a stake, are drawn
/// once into fixed groups, and play rounds: open, commit, post, settle. All money of a task is escrowed when it is
/// created; payments are pulled. Every function first advances whatever is due by the clock, so that nobody's
/// transaction can come too late to be counted right; `poke` does only that, and anybody may call it.
///
/// MONEY. escrow = paid + settlementPaid + refunded + locked, in every state of every task.
///        stakes in = stakes out + slashed + stakes held; slashed = compensation + burned.
///        The contract's balance is never less than what it owes. Burned wei stay in the contract for ever.
/// TIME.  Deadlines are in seconds of chain time (block.timestamp), finality depths in blocks.
interface IMarket {
    // ------------------------------------------------------------------ types

    /// @notice What a model owner fixes for ever when it creates a task.
    struct TaskParams {
        uint8 groupSize; //        n, owners in a group: 3 to 16
        uint8 maxGroups; //        G at most; at least 2f + 3, at most 24; groupSize * maxGroups <= 128
        uint8 faultyGroups; //     f, poisoned groups that Multi-Krum tolerates
        bool strictSelection; //   false: m = G' - f groups are selected; true: m = G' - f - 2
        bool modelSelection; //    false: Multi-Krum on the contract selects and pays; true: the model owner names the groups, all complete ones are paid
        uint8 laneBits; //         b: 8, 16 or 32
        uint32 maxMagnitude; //    q_max of one owner; groupSize * maxMagnitude < 2^(b - 2)
        uint32 valueCount; //      d, lanes of a vector before padding
        uint16 chunkWords; //      32-byte words of one owner that one settle call takes
        uint16 rounds; //          R
        uint8 maxEmptyRounds; //   k: so many rounds in a row without a payment, or not opened, end the task
        uint8 maxMissedRounds; //  after so many rounds without a sign of life an owner may be expelled
        uint8 depth; //            blocks between the close of the commit phase and the first post; 0 only where the chain cannot fork; at least 1
        uint16 blockSeconds; //    the slowest block time the deadlines allow for
        uint32 joinSeconds; //     from creation
        uint32 revealSeconds; //   from the close of joining
        uint32 openSeconds; //     the model owner's time to open the next round
        uint32 commitSeconds;
        uint32 postSeconds; //     counted from the actual close of the commit phase
        uint32 settleSeconds; //   counted from the actual close of the post phase; at least (chunks + 1) * (turnSeconds + blockSeconds)
        uint32 turnSeconds; //     how long a chunk is reserved for the settler whose turn it is
        uint96 rate; //            wei for one owner and round
        uint80 stake; //           wei each owner locks; at least groupSize * rate + deposit
        uint80 deposit; //         part of the stake forfeited for a nonce withheld or for being dead
        uint64 gasPriceCap; //     wei a gas: settlement is reimbursed at min(base fee + gasTip, gasPriceCap)
        uint64 gasTip; //          wei a gas; at most gasPriceCap, which may be 0: then nobody is reimbursed
        bytes32 allowlistRoot; //  0 = open to all; else Merkle root of keccak256(bytes.concat(keccak256(abi.encode(address))))
    }

    /// @notice Where a task stands. A deadline is over from the second after it.
    enum TaskStatus {
        None,
        Joining,
        Revealing,
        Drawing, //   nonces are in; waiting for the hash of the draw block
        Running,
        Ended, //     all rounds played, or ended early; the model owner's rest is credited
        Cancelled //  not enough owners; everything is refunded
    }

    /// @notice Where the current round of a running task stands.
    enum RoundPhase {
        Idle, //    waiting for the model owner to open the next round
        Commit,
        Post,
        Settle
    }

    /// @notice How a round ended.
    enum Outcome {
        Selected, //   in time: Multi-Krum chose and the selected groups were paid; or the model owner chose and all complete groups were paid
        TooFew, //     fewer than 2f + 3 complete groups after posting: all complete groups paid, no step
        Late, //       settlement, or the model owner's selection, missed its deadline: all complete groups paid
        Void //        fewer than 2f + 3 fully committed groups: nobody posts, is paid or is slashed
    }

    /// @notice A data owner in a task.
    struct Member {
        address account;
        uint80 stake; //     wei still locked
        uint8 seat; //       group * groupSize + position; 255 = no seat (before the draw, or not drawn)
        uint8 status; //     0 joined, 1 revealed, 2 seated, 3 released (not drawn or nonce withheld), 4 out (left, expelled or its group dissolved)
        bytes32 boxKey; //   X25519 public key
        bytes32 record; //   nonce commitment until the draw; then: round (uint32, top) | flags (uint8) | 8 zero bits | 208 bits of the root.
        // flags: 1 committed, 2 posted, 4 sat out (a sign of life without a commitment)
        uint16 collected; // paid rounds of its group already withdrawn
    }

    /// @notice The moving part of a task, as the last transaction left it: what is due by the clock shows after a poke.
    struct TaskState {
        address modelOwner;
        bytes32 boxKey;
        bytes32 paramsHash; // keccak256(abi.encode(params, boxKey, keccak256(spec))); from the draw on keccak256(abi.encode(that, seats as in GroupsDrawn))
        TaskStatus status;
        RoundPhase phase;
        uint8 groupCount; //     G as drawn
        uint8 memberCount;
        uint32 round; //         current or last round, from 1; 0 before the first
        uint48 phaseEnd; //      chain time at which the current phase (or status) ends at the latest
        uint48 closeBlock; //    block in which the commit phase closed; draw block while Drawing
        uint8 emptyRounds; //    rounds in a row without a payment
        uint16 nextChunk; //     next chunk to settle
        uint48 turnEnd; //       chain time until which the next chunk is reserved
        bytes32 ctx; //          context of the current round
        // bitmaps over groups, bit g = group g
        uint32 dissolved; //     gone for good
        uint32 short; //         a member lacks its full stake
        uint32 satOut; //        this round: a member declared that its group cannot play
        uint32 committed; //     this round: all members have committed
        uint32 complete; //      this round: all members have posted
        uint32 selected; //      last settled round
        // money, wei
        uint128 escrow;
        uint128 paid;
        uint128 settlementPaid;
        uint128 refunded;
        uint128 stakesIn;
        uint128 stakesOut;
        uint128 slashed;
        uint128 compensation;
        uint128 burned;
    }

    // ----------------------------------------------------------------- events

    event TaskCreated(uint256 indexed taskId, address indexed modelOwner, bytes32 boxKey, TaskParams params, bytes spec, uint256 escrow);
    event Joined(uint256 indexed taskId, address indexed account, bytes32 boxKey, uint256 stake);
    event Left(uint256 indexed taskId, address indexed account);
    event JoiningClosed(uint256 indexed taskId, uint256 memberCount, uint256 revealDeadline);
    event Revealed(uint256 indexed taskId, address indexed account);
    event DrawArmed(uint256 indexed taskId, uint256 drawBlock);
    /// @param seats members' indices by seat: byte s of seats is the index (in getMembers) of the member in seat s.
    event GroupsDrawn(uint256 indexed taskId, uint256 groupCount, bytes seats, uint256 openDeadline);
    event TaskCancelled(uint256 indexed taskId, uint256 refunded);

    event ModelPart(uint256 indexed taskId, uint256 indexed round, uint256 part, bytes data);
    event RoundOpened(
        uint256 indexed taskId,
        uint256 indexed round,
        bytes32 ctx,
        bytes32 baseCtx,
        bytes32 modelCommit,
        bytes32 keyHash,
        bytes32 payloadHash,
        uint256 partCount,
        bytes32[] padHashes,
        uint256 playable,
        uint256 commitDeadline
    );
    event Committed(uint256 indexed taskId, uint256 indexed round, address indexed account, uint256 seat, bytes32 root);
    event SatOut(uint256 indexed taskId, uint256 indexed round, address indexed account, uint256 seat);
    event CommitClosed(uint256 indexed taskId, uint256 indexed round, uint256 committed, uint256 closeBlock, uint256 postDeadline);
    event Posted(uint256 indexed taskId, uint256 indexed round, address indexed account, uint256 seat, uint256 firstChunk, bytes data);
    event Slashed(
        uint256 indexed taskId, uint256 indexed round, address indexed account, uint256 amount, uint256 compensation, uint256 burned
    );
    event PostClosed(uint256 indexed taskId, uint256 indexed round, uint256 complete, uint256 settleDeadline);
    event ChunkSettled(
        uint256 indexed taskId, uint256 indexed round, uint256 indexed chunk, address settler, uint256 reimbursed, uint256 turnEnd
    );
    /// @param distances squared distances between the sums of the complete groups, in the order of pairs (0,1) (0,2) .. (1,2) ..
    /// @param selected bitmap over groups
    event KrumSelected(uint256 indexed taskId, uint256 indexed round, uint256 complete, uint256 selected, uint256[] distances);
    /// @param selected bitmap over groups, as the model owner named it; all complete groups are paid.
    event GroupsSelected(uint256 indexed taskId, uint256 indexed round, uint256 complete, uint256 selected);
    event RoundEnded(
        uint256 indexed taskId, uint256 indexed round, Outcome outcome, uint256 paidGroups, uint256 paidWei, uint256 openDeadline
    );
    event StakeRestored(uint256 indexed taskId, address indexed account, uint256 amount);
    event GroupDissolved(uint256 indexed taskId, uint256 group, address indexed account, uint256 forfeited);
    event TaskEnded(uint256 indexed taskId, uint256 roundsPlayed, uint256 refunded);
    event Withdrawn(address indexed account, address indexed to, uint256 amount);
    /// @notice Said once for each task with a stake or pay in a withdrawal.
    event Collected(uint256 indexed taskId, address indexed account, uint256 pay, uint256 stake);

    // ----------------------------------------------------------------- errors

    error NoSuchTask(uint256 taskId);
    error BadParameter(string name, uint256 value, uint256 bound);
    error EscrowMismatch(uint256 required, uint256 sent);
    error BadBoxKey(bytes32 boxKey);
    error BoxKeyTaken(bytes32 boxKey);
    error NotAllowed(address account);
    error WrongStake(uint256 required, uint256 sent);
    error AlreadyJoined(address account);
    error TaskFull(uint256 taskId);
    error WrongStatus(TaskStatus status);
    error PhaseOver(RoundPhase phase, uint256 deadline, uint256 nowSeconds);
    error WrongPhase(RoundPhase phase);
    error WrongContext(bytes32 expected, bytes32 got);
    error WrongRound(uint256 expected, uint256 got);
    error NotModelOwner(address account);
    error NotMember(address account);
    error BadNonce(address account);
    error AlreadyRevealed(address account);
    error AlreadyCommitted(address account);
    error AlreadySatOut(address account);
    error AlreadyPosted(address account);
    error GroupNotPlaying(uint256 group);
    error StakeTooLow(uint256 required, uint256 stake);
    error TooEarly(uint256 block_, uint256 now_);
    error CommitmentMismatch(address account);
    error BadChunkProof(uint256 chunk);
    error WrongChunk(uint256 expected, uint256 got);
    error WrongLength(uint256 expected, uint256 got);
    error NotYourTurn(address settler, uint256 until);
    error BadSelection(uint256 selected, uint256 count);
    error StillAlive(address account, uint256 missed, uint256 limit);
    error NothingToWithdraw();
    error TransferFailed(address to);

    // ------------------------------------------------- the life of a task, in order

    /// @notice Creates a task and escrows all rewards (rounds * maxGroups * groupSize * rate) and the settlement pot
    /// (all settle calls of all rounds at gasPriceCap; nothing with modelSelection, where nobody settles). Send exactly `escrowRequired(params)`.
    /// @param boxKey the model owner's X25519 public key.
    /// @param spec what owners must know before they join (JSON); only its hash is bound.
    function createTask(TaskParams calldata params, bytes32 boxKey, bytes calldata spec) external payable returns (uint256 taskId);

    /// @notice Joins with exactly params.stake. Joining closes when maxGroups * groupSize owners are in, or at its deadline.
    /// @param nonceCommitment keccak256(abi.encode(taskId, account, nonce)).
    /// @param proof of membership in the allowlist; empty where there is none.
    function join(uint256 taskId, bytes32 boxKey, bytes32 nonceCommitment, bytes32[] calldata proof) external payable;

    /// @notice While Joining: leaves; the whole stake becomes credit. While Running: leaves a group that has not been complete
    /// for more than maxMissedRounds rounds; the group is dissolved and all its stakes are released. Not between the group's full commitment and the end of the round.
    function leave(uint256 taskId) external;

    /// @notice Reveals the nonce. Who has not by the deadline loses its deposit (burned) and is out. When all have, or at the deadline, the draw block is fixed:
    /// 1 + depth blocks later (closeBlock). Whatever call comes after that block draws: seed = keccak256(abi.encode(nonces, its hash)), nonces the xor of
    /// keccak256(abi.encode(account, nonce)) over all that revealed (not of the commitments, which everybody knows from joining on). The revealed, in the order of getMembers,
    /// are shuffled: for i = count - 1 down to 1, j = uint(keccak256(abi.encode(seed, i))) % (i + 1), swap i and j; the first G * n get the seats. A hash that
    /// neither BLOCKHASH nor EIP-2935 remembers arms the draw again.
    function reveal(uint256 taskId, bytes32 nonce) external;

    /// @notice Publishes one part of the round's encrypted model, before openRound, for payloads over 100,000 bytes. Model owner only. Emits only.
    function publishPart(uint256 taskId, uint256 round, uint256 part, bytes calldata data) external;

    /// @notice Opens round `round` (the last one + 1). Model owner only; also late, while the task has not ended: each openSeconds missed counts as an empty round.
    /// The first one also lays out the storage of the running distances (11,050 gas a pair of groups), where vectors have more than one chunk.
    /// baseCtx = keccak256(abi.encode(keccak256("OmniLytics round"), chainid, market, taskId, round, paramsHash, payloadHash, partCount, keyHash, keccak256(abi.encodePacked(padHashes))))
    /// ctx = keccak256(abi.encode(baseCtx, modelCommit)).
    /// @param payload the last (or only) part of the encrypted model; emitted as ModelPart number partCount - 1.
    /// @param payloadHash keccak256 of all parts put together. The contract does not check it; owners do.
    /// @param padHashes keccak256 of pad seed p, for each position p of a group; where the model owner selects, of each seat: every group has pads of its own.
    function openRound(
        uint256 taskId,
        uint256 round,
        bytes32 modelCommit,
        bytes32 keyHash,
        bytes32 payloadHash,
        uint256 partCount,
        bytes32[] calldata padHashes,
        bytes calldata payload
    ) external;

    /// @notice Fixes the caller's masked vector of this round: once, with the full stake. The phase closes early
    /// when every playable group has either fully committed or sat out.
    /// @param ctx of the round as the caller saw it; a round reopened on another fork has another.
    /// @param root head of the commitment chain; its low 208 bits are kept.
    function commit(uint256 taskId, bytes32 ctx, bytes32 root) external;

    /// @notice Declares that the caller's group cannot play this round: a sign of life, and the others need not wait. Not after one's own commit; also when the group is out of
    /// the round already.
    /// Until the next round opens it is taken late, as a sign of life only: the phase may have closed before the caller could act.
    function sitOut(uint256 taskId, bytes32 ctx) external;

    /// @notice Posts the caller's vector, or chunks firstChunk.. of it, from `depth` blocks after the close of the commit phase.
    /// The commitment chain is checked; the bytes are emitted as Posted. All parts in order.
    /// @param data whole chunks; the last chunk of the vector may be shorter.
    /// @param nextHash link hash behind the last chunk given; for the last part: the terminal, keccak256(abi.encode(0x02, ctx, seat)).
    function post(uint256 taskId, bytes32 ctx, uint256 firstChunk, bytes calldata data, bytes32 nextHash) external;

    /// @notice Settles one chunk: checks it for every owner of every complete group, adds up each group lane by lane, adds the squared
    /// distances to the running totals; with the last chunk runs Multi-Krum and pays. Reimbursed from the pot.
    /// Until turnEnd only the settler whose turn it is: of the owners of complete groups, in the order of their seats, number (round + chunk) % how many they are.
    /// @param data for each complete group in order, for each position in order: link hash of the next chunk (32 bytes), then the chunk's words.
    function settle(uint256 taskId, bytes32 ctx, uint256 chunk, bytes calldata data) external;

    /// @notice Names the groups that the model owner trusts most, in a task with modelSelection; model owner only, once the post phase is closed. Exactly m of the complete
    /// groups. What is paid does not depend on it: all complete groups are, now, or at the deadline when the model owner says nothing.
    /// @param selected bitmap over groups.
    function selectGroups(uint256 taskId, bytes32 ctx, uint256 selected) external;

    /// @notice Restores the caller's stake to params.stake; send exactly what is missing.
    function restoreStake(uint256 taskId) external payable;

    /// @notice Expels an owner that gave no sign of life (commit or sitOut) for more than maxMissedRounds rounds, the one open for commits not counted: its deposit is burned, its group dissolved, all its mates' stakes are released.
    function expel(uint256 taskId, address account) external;

    /// @notice Advances whatever is due: close of joining, of revealing, the draw, close of commit, of post (slashing), late settlement, the end of a task.
    function poke(uint256 taskId) external;

    /// @notice Pays out everything the caller can have: pay and released stakes of the tasks named, and its credits
    /// (compensation, settlement, refunds) of all tasks.
    /// @param to where the money goes; another address than the caller's may be named.
    function withdraw(uint256[] calldata taskIds, address payable to) external;

    // ------------------------------------------------------------------ views

    function taskCount() external view returns (uint256);
    function getTask(uint256 taskId) external view returns (TaskState memory);
    function getParams(uint256 taskId) external view returns (TaskParams memory);
    function getMembers(uint256 taskId) external view returns (Member[] memory);
    /// @return how often each group was paid.
    function getPaidRounds(uint256 taskId) external view returns (uint256[] memory);
    /// @notice What withdraw would pay: credits, plus pay and released stakes of the tasks named; after a poke, if anything is due by the clock.
    function withdrawable(address account, uint256[] calldata taskIds) external view returns (uint256);
    /// @notice Wei that createTask wants, reward + settlementPot; reverts with BadParameter where createTask would.
    function escrowRequired(TaskParams calldata params) external view returns (uint256 reward, uint256 settlementPot);
    /// @notice The gas that the pot holds for a settle call of `words` words an owner: an upper bound of what it uses, whatever the vectors
    /// are. Reimbursed is less where the sums of the groups lie close together, as honest ones do.
    function settleGas(uint256 groups, uint256 groupSize, uint256 words, uint256 laneBits, bool lastChunk) external view returns (uint256);
    /// @notice wei of an account's credits, and all burned wei.
    function credits(address account) external view returns (uint256);
    function totalBurned() external view returns (uint256);
}
