"""Vectors of the commitment chain and of the contexts."""

from typing import Any

from tests.vectors import reference as ref
from tests.vectors.case_helpers import Case, bundle, entropy, text


def commitment_case(name: str, words: int, chunk_words: int, seat: int, part_chunks: int) -> Case:
    ctx, vector = entropy(f"ctx {name}", 32), entropy(f"vector {name}", 32 * words)
    size = 32 * chunk_words
    chunks = [vector[i : i + size] for i in range(0, len(vector), size)]
    tag, terminal, links = ref.chain(chunks, ctx, seat)
    first = list(range(0, len(chunks), part_chunks))
    following = [min(f + part_chunks, len(chunks)) for f in first]
    return {
        "name": name,
        "ctx": text(ctx),
        "seat": seat,
        "chunkWords": chunk_words,
        "wordCount": words,
        "chunkCount": len(chunks),
        "vector": text(vector),
        "tag": text(tag),
        "terminal": text(terminal),
        "links": [text(link) for link in links],
        "root": text(links[0]),
        "keptRoot": str(int.from_bytes(links[0], "big") % (1 << 208)),
        "partFirst": first,
        "partNext": following,
        "partData": [text(b"".join(chunks[f:n])) for f, n in zip(first, following, strict=True)],
        "partNextLink": [text(links[n]) for n in following],
    }


def commitment() -> Case:
    cases = [
        commitment_case("one chunk, one word", 1, 1, 0, 1),
        commitment_case("one chunk, not full", 3, 8, 5, 1),
        commitment_case("whole chunks, one part", 8, 2, 14, 4),
        commitment_case("last chunk shorter, two parts", 7, 2, 127, 2),
        commitment_case("each chunk a part", 5, 1, 254, 1),
        commitment_case("chunks of 32 words", 70, 32, 9, 2),
    ]
    good = commitment_case("bad", 7, 2, 4, 4)
    ctx, vector = bytes.fromhex(good["ctx"][2:]), bytes.fromhex(good["vector"][2:])

    def part(reason: str, **changes: Any) -> Case:
        case: Case = {key: good[key] for key in ("ctx", "seat", "chunkWords", "wordCount", "keptRoot")}
        case |= {"firstChunk": 0, "data": text(vector), "nextLink": good["terminal"], "reason": reason}
        return case | changes

    swapped = vector[64:128] + vector[:64] + vector[128:]
    whole = [vector[i : i + 64] for i in range(0, len(vector), 64)]
    chopped = ref.chain([vector[i : i + 96] for i in range(0, len(vector), 96)], ctx, 4)[2]
    other_order = ref.chain(whole[::-1], ctx, 4)[2]
    longer = vector + bytes(32)
    long_chunks = [longer[i : i + 64] for i in range(0, len(longer), 64)]
    other_end = open_end = entropy("other end", 32)
    for index in reversed(range(len(whole))):
        open_end = ref.keccak256(bytes.fromhex(good["tag"][2:]) + ref.word(index) + open_end + whole[index])

    def kept(links: list[bytes]) -> str:
        return str(int.from_bytes(links[0], "big") % (1 << 208))

    bad = [
        part("two chunks swapped", data=text(swapped)),
        part("another seat", seat=5),
        part("another context", ctx=text(entropy("another", 32))),
        part("one word missing at the end", data=text(vector[:-32])),
        part("one byte missing at the end", data=text(vector[:-1])),
        part("one word too many", data=text(vector + bytes(32))),
        part("nothing", data="0x"),
        part("one bit changed", data=text(bytes([vector[0] ^ 1]) + vector[1:])),
        part("last bit changed", data=text(vector[:-1] + bytes([vector[-1] ^ 1]))),
        part("does not start at the first chunk", firstChunk=1, data=text(vector[64:])),
        part("ends in another link than the terminal", nextLink=text(entropy("link", 32))),
        part("ends in the tag", nextLink=good["tag"]),
        part("first part with a wrong next link", data=text(vector[:64]), nextLink=good["links"][2]),
        part("first part that is no whole chunk", data=text(vector[:96]), nextLink=good["links"][1]),
        part("other chunk size", keptRoot=str(int.from_bytes(chopped[0], "big") % (1 << 208))),
        part("chain the wrong way round", keptRoot=str(int.from_bytes(other_order[0], "big") % (1 << 208))),
        part(
            "high bits of the root, not the low",
            keptRoot=str(int.from_bytes(bytes.fromhex(good["root"][2:]), "big") >> 48),
        ),
        part("committed to one word too many", data=text(longer), keptRoot=kept(ref.chain(long_chunks, ctx, 4)[2])),
        part("committed to another end than the terminal", nextLink=text(other_end), keptRoot=kept([open_end])),
    ]
    return bundle(cases, bad)


def context_case(name: str, positions: int, **changes: Any) -> Case:
    fields: Case = {
        "chainId": 31337,
        "market": entropy("market", 20),
        "taskId": 3,
        "round": 7,
        "paramsHash": entropy("params", 32),
        "payload": entropy("payload", 75),
        "partCount": 1,
        "key": entropy(f"key {name}", 32),
        "plaintext": entropy(f"plaintext {name}", 100),
        "padSeeds": [entropy(f"pad {name} {p}", 32) for p in range(positions)],
    } | changes
    payload_hash, key_hash = ref.keccak256(fields["payload"]), ref.keccak256(fields["key"])
    pad_hashes = [ref.keccak256(seed) for seed in fields["padSeeds"]]
    base = ref.keccak256(
        ref.keccak256(b"OmniLytics round")
        + ref.word(fields["chainId"])
        + bytes(12)
        + fields["market"]
        + ref.word(fields["taskId"])
        + ref.word(fields["round"])
        + fields["paramsHash"]
        + payload_hash
        + ref.word(fields["partCount"])
        + key_hash
        + ref.keccak256(b"".join(pad_hashes))
    )
    commit = ref.keccak256(base + fields["key"] + fields["plaintext"])
    genesis = entropy("genesis", 32)
    case: Case = {"name": name}
    for key, value in fields.items():
        if isinstance(value, list):
            case[key] = [text(v) for v in value]
        else:
            case[key] = text(value) if isinstance(value, bytes) else str(value)
    return case | {
        "payloadHash": text(payload_hash),
        "keyHash": text(key_hash),
        "padHashes": [text(h) for h in pad_hashes],
        "baseCtx": text(base),
        "modelCommit": text(commit),
        "ctx": text(ref.keccak256(base + commit)),
        "genesis": text(genesis),
        "run": ref.keccak256(ref.word(fields["chainId"]) + fields["market"] + genesis).hex()[:16],
    }


def context() -> Case:
    cases = [
        context_case("three positions", 3),
        context_case("sixteen positions", 16),
        context_case("large numbers", 5, chainId=2**64 + 1, taskId=2**255, round=2**32 - 1, partCount=65535),
        context_case("empty plaintext", 4, plaintext=b""),
    ]
    bad = []
    claim = {key: cases[0][key] for key in ("baseCtx", "modelCommit", "ctx")}
    changed: dict[str, Case] = {
        "another chain": {"chainId": 1},
        "another market": {"market": entropy("other", 20)},
        "another task": {"taskId": 4},
        "another round": {"round": 8},
        "another part count": {"partCount": 2},
        "other parameters": {"paramsHash": entropy("other", 32)},
        "another payload": {"payload": b"other"},
        "another key": {"key": entropy("other", 32)},
        "pads in another order": {"padSeeds": [entropy(f"pad three positions {p}", 32) for p in (1, 0, 2)]},
    }
    for reason, changes in changed.items():
        bad.append(context_case("three positions", 3, **changes) | claim | {"reason": reason})
    return bundle(cases, bad)
