"""Vectors of masks, seeds, keys and messages."""

from tests.vectors import reference as ref
from tests.vectors.case_helpers import Case, bundle, entropy, number, pairs, text


def prg() -> Case:
    cases: list[Case] = []
    for kind, length in (("pair", 73), ("pad", 33)):
        for bits in (8, 16, 32):
            for words in (1, 3):
                name = f"{kind}, {bits} bits, {words} words"
                seed, ctx = entropy(f"seed {name}", 32), entropy(f"context {name}", length)
                key, raw, lanes = ref.stream(seed, kind, ctx, bits, words * 256 // bits)
                cases.append(
                    {
                        "name": name,
                        "kind": kind,
                        "seed": text(seed),
                        "context": text(ctx),
                        "laneBits": bits,
                        "wordCount": words,
                        "key": text(key),
                        "keyStream": text(raw),
                        "lanes": text(ref.vector_of(lanes, bits)),
                    }
                )
    bad = []
    for reason, changes in {
        "kind that is not known": {"kind": "self"},
        "seed of 31 bytes": {"seed": text(bytes(31))},
        "pair's context without its last byte": {"context": cases[0]["context"][:-2]},
        "a pad's context for a pair": {"context": cases[6]["context"]},
    }.items():
        bad.append(dict(cases[0]) | changes | {"reason": reason})
    return bundle(cases, bad)


def masks_case(bits: int, size: int, group: int, words: int, whole: bool, by_seat: bool = False) -> Case:
    """by_seat: every group has pads of its own, with the owner's seat as index in place of its position."""
    name = f"{size} owners, {bits} bits, group {group}" + (", pads by seat" if by_seat else "")
    indices = [group * size + p if by_seat else p for p in range(size)]
    ctx = entropy(f"ctx {name}", 32)
    addresses = [entropy(f"address {name} {p}", 20) for p in range(size)]
    secrets = [entropy(f"secret {name} {p}", 32) for p in range(size)]
    publics = [ref.x25519(s, ref.BASE_POINT) for s in secrets]
    seeds = [
        ref.blake2b(
            b"seed" + ctx + addresses[a] + addresses[b] + publics[a] + publics[b],
            ref.x25519(secrets[a], publics[b]),
            "omnilytics-seed",
        )
        for a, b in pairs(size)
    ]
    pads = [entropy(f"pad {name} {p}", 32) for p in range(size)]
    lane_count, limit = words * 256 // bits, ((1 << (bits - 2)) - 1) // size
    plain = [
        [number(f"{name} {p} {i}", 2 * limit + 1) - limit for i in range(lane_count - 1)] + [0] for p in range(size)
    ]
    masked = [list(q) for q in plain]
    for (a, b), seed in zip(pairs(size), seeds, strict=True):
        mask = ref.stream(seed, "pair", ctx + bytes([group]) + addresses[a] + addresses[b], bits, lane_count)[2]
        masked[a] = [x + m for x, m in zip(masked[a], mask, strict=True)]
        masked[b] = [x - m for x, m in zip(masked[b], mask, strict=True)]
    for p in range(size):
        mask = ref.stream(pads[p], "pad", ctx + bytes([indices[p]]), bits, lane_count)[2]
        masked[p] = [x + m for x, m in zip(masked[p], mask, strict=True)]
    kept = range(size) if whole else range(1, size)
    return {
        "name": name,
        "laneBits": bits,
        "groupSize": size,
        "group": group,
        "wordCount": words,
        "ctx": text(ctx),
        "addresses": [text(a) for a in addresses],
        "ephemeralSecrets": [text(s) for s in secrets],
        "ephemeralPublics": [text(p) for p in publics],
        "pairSeeds": [text(s) for s in seeds],
        "acknowledgements": [text(ref.blake2b(b"ack" + s, b"", "omnilytics-ack")) for s in seeds],
        "padIndices": indices,
        "padSeeds": [text(p) for p in pads],
        "quantised": [text(ref.vector_of(q, bits)) for q in plain],
        "masked": [text(ref.vector_of(y, bits)) for y in masked],
        "paddedSum": text(ref.vector_of([sum(masked[p][i] for p in kept) for i in range(lane_count)], bits)),
        "sum": text(ref.vector_of([sum(plain[p][i] for p in kept) for i in range(lane_count)], bits)),
    }


def masks() -> Case:
    cases = [
        masks_case(8, 3, 0, 1, True),
        masks_case(16, 3, 255, 2, True),
        masks_case(16, 5, 3, 1, True),
        masks_case(32, 4, 1, 2, True),
        masks_case(16, 3, 2, 1, True, by_seat=True),
        masks_case(8, 16, 7, 1, True, by_seat=True),
    ]
    bad = [
        masks_case(16, 4, 2, 1, False) | {"reason": "sum without the first owner: masks do not cancel"},
        masks_case(16, 4, 2, 1, False, by_seat=True) | {"reason": "the same with pads by seat"},
    ]
    return bundle(cases, bad)


def messages() -> Case:
    ctx, sender, receiver = entropy("ctx", 32), entropy("sender", 20), entropy("receiver", 20)
    secrets = [entropy(f"secret {i}", 32) for i in range(2)]
    publics = [ref.x25519(s, ref.BASE_POINT) for s in secrets]
    key, pad = entropy("model key", 32), entropy("pad seed", 32)
    bodies = [
        (1, 0, "hello that wants an answer", publics[0] + b"\1"),
        (1, 0, "hello that answers", publics[0] + b"\0"),
        (2, 1, "seed acknowledgement", ref.blake2b(b"ack" + entropy("seed", 32), b"", "omnilytics-ack")),
        (3, 1, "model key", key + pad),
        (4, 1, "model key received", ref.keccak256(key + pad)),
    ]
    cases: list[Case] = []
    for kind, channel, name, body in bodies:
        plaintext, nonce = bytes([1, kind]) + ctx + sender + receiver + body, entropy(f"nonce {name}", 24)
        cases.append(
            {
                "name": name,
                "kind": kind,
                "channel": channel,
                "ctx": text(ctx),
                "sender": text(sender),
                "receiver": text(receiver),
                "body": text(body),
                "plaintext": text(plaintext),
                "senderSecret": text(secrets[0]),
                "senderPublic": text(publics[0]),
                "receiverSecret": text(secrets[1]),
                "receiverPublic": text(publics[1]),
                "nonce": text(nonce),
                "envelope": text(bytes([1, channel]) + ref.box(secrets[0], publics[1], nonce, plaintext)),
                "topic": f"omnilytics/00112233aabbccdd/3/7/in/{receiver.hex()}/{sender.hex()}",
            }
        )
    good = bytes.fromhex(cases[0]["plaintext"][2:])
    plaintexts = {
        "empty": b"",
        "header only": good[:74],
        "one byte short": good[:-1],
        "one byte long": good + b"\0",
        "version 0": b"\0" + good[1:],
        "version 2": b"\2" + good[1:],
        "kind 0": good[:1] + b"\0" + good[2:],
        "kind 5": good[:1] + b"\5" + good[2:],
        "another kind's length": good[:1] + b"\2" + good[2:],
        "another context": good[:2] + entropy("other", 32) + good[34:],
        "another sender": good[:34] + entropy("other", 20) + good[54:],
        "another receiver": good[:54] + entropy("other", 20) + good[74:],
        "turned back on its sender": good[:34] + receiver + sender + good[74:],
        "flag of 2": good[:-1] + b"\2",
    }
    bad = [cases[0] | {"plaintext": text(value), "reason": reason} for reason, value in plaintexts.items()]
    return bundle(cases, bad)


def keys() -> Case:
    prime, top = ref.PRIME, 1 << 255
    low = [0, 1, prime - 1, prime, prime + 1]
    low += [325606250916557431795983626356110631294008115727848805560023387167927233504]
    low += [39382357235489614581723060781553021112529911719440698176882885853963445705823]
    bad = [{"public": text((u | high).to_bytes(32, "little"))} for high in (0, top) for u in low]
    # Refused for having no use, and shown to have none: X25519 gives zero with any secret.
    for case in bad:
        assert ref.x25519(entropy("any", 32), bytes.fromhex(case["public"][2:])) == bytes(32)
        case["reason"] = "point of low order"
    for value in (9 | top, prime + 2, prime + 18):
        bad.append({"public": text(value.to_bytes(32, "little")), "reason": "not canonical"})
    secrets = [entropy(f"key {i}", 32) for i in range(4)]
    cases = [{"secret": text(s), "public": text(ref.x25519(s, ref.BASE_POINT))} for s in secrets]
    return bundle(cases, bad)
