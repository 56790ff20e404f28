"""Vectors of the group sums, the distances, Multi-Krum and quantisation."""

import math
import struct

from tests.vectors import reference as ref
from tests.vectors.case_helpers import Case, bundle, entropy, number, pairs, text


def sums_of(vectors: list[list[int]], size: int, bits: int) -> list[list[int]]:
    groups = [vectors[i : i + size] for i in range(0, len(vectors), size)]
    return [[sum(lane) % (1 << bits) for lane in zip(*group, strict=True)] for group in groups]


def distances_of(sums: list[list[int]], bits: int) -> list[int]:
    return [
        sum(ref.lifted((x - y) % (1 << bits), bits) ** 2 for x, y in zip(sums[a], sums[b], strict=True))
        for a, b in pairs(len(sums))
    ]


def ring_case(name: str, bits: int, size: int, groups: int, words: int, extreme: str) -> Case:
    lane_count, half, full = words * 256 // bits, 1 << (bits - 1), 1 << bits
    limit = ((1 << (bits - 2)) - 1) // size
    vectors = []
    for owner in range(size * groups):
        if extreme == "random":
            lanes = ref.lanes_of(entropy(f"{name} {owner}", words * 32), bits)
        elif extreme == "saturated":
            sign = 1 if owner // size % 2 else -1
            lanes = [sign * limit % full] * lane_count
        elif extreme == "wrap":
            lanes = [full - 1 - (owner + i) % 3 for i in range(lane_count)]
        elif extreme == "opposite":
            lanes = [half if owner // size == 0 and owner % size == 0 else 0] * lane_count
        else:  # every lane one of the values at which signs, carries and borrows turn
            edges = [0, 1, half - 1, half, half + 1, full - 1]
            lanes = [edges[number(f"{name} {owner} {i}", 6)] for i in range(lane_count)]
        vectors.append(lanes)
    sums = sums_of(vectors, size, bits)
    return {
        "name": name,
        "laneBits": bits,
        "groupSize": size,
        "groupCount": groups,
        "wordCount": words,
        "vectors": [text(ref.vector_of(v, bits)) for v in vectors],
        "sums": [text(ref.vector_of(s, bits)) for s in sums],
        "distances": [str(d) for d in distances_of(sums, bits)],
    }


def ring_sums() -> Case:
    cases = []
    for bits in (8, 16, 32):
        for extreme in ("random", "saturated", "wrap", "opposite", "edges"):
            cases.append(ring_case(f"{extreme}, {bits} bits", bits, 3, 5, 2, extreme))
    cases.append(ring_case("largest group, 8 bits", 8, 16, 3, 3, "random"))
    cases.append(ring_case("two groups, one word", 16, 4, 2, 1, "edges"))
    cases.append(ring_case("many groups", 16, 3, 12, 1, "random"))
    cases.append(ring_case("a chunk of 32 words", 16, 3, 3, 32, "edges"))
    bad = []
    for bits in (8, 16, 32):
        carry = ring_case(f"edges, {bits} bits", bits, 3, 5, 2, "edges")
        owners = [int(v, 16) for v in carry["vectors"]]
        claimed = [sum(owners[i : i + 3]) % (1 << 512) for i in range(0, 15, 3)]
        carry["sums"] = [text(total.to_bytes(64, "big")) for total in claimed]
        bad.append(carry | {"reason": "carries run from lane to lane"})
        apart = ring_case(f"edges, {bits} bits", bits, 3, 5, 2, "edges")
        lanes = [[ref.lifted(x, bits) for x in ref.lanes_of(bytes.fromhex(s[2:]), bits)] for s in apart["sums"]]
        apart["distances"] = [
            str(sum((x - y) ** 2 for x, y in zip(lanes[a], lanes[b], strict=True))) for a, b in pairs(5)
        ]
        bad.append(apart | {"reason": "sums lifted before the difference"})
    return bundle(cases, bad)


def krum_of(distances: list[int], groups: int, faulty: int, strict: bool) -> tuple[list[int], list[int]]:
    near: list[list[int]] = [[] for _ in range(groups)]
    for (a, b), value in zip(pairs(groups), distances, strict=True):
        near[a].append(value)
        near[b].append(value)
    scores = [sum(sorted(row)[: groups - faulty - 2]) for row in near]
    left = list(range(groups))
    chosen = []
    for _ in range(groups - faulty - (2 if strict else 0)):
        best = min(left, key=lambda g: scores[g])
        chosen.append(best)
        left.remove(best)
    return scores, sorted(chosen)


def krum_case(name: str, distances: list[int], groups: int, faulty: int, strict: bool) -> Case:
    scores, selected = krum_of(distances, groups, faulty, strict)
    return {
        "name": name,
        "groups": groups,
        "faulty": faulty,
        "strict": strict,
        "distances": [str(d) for d in distances],
        "scores": [str(s) for s in scores],
        "selected": selected,
        "bitmap": sum(1 << g for g in selected),
    }


def krum() -> Case:
    cases = []
    for groups, faulty in ((3, 0), (5, 1), (6, 1), (7, 2), (10, 2), (11, 4), (24, 10), (24, 1)):
        for strict in (False, True):
            name = f"{groups} groups, f = {faulty}, strict = {strict}"
            count = len(pairs(groups))
            wide = [number(f"{name} {i}", 1 << 96) for i in range(count)]
            cases.append(krum_case(name, wide, groups, faulty, strict))
            tied = [number(f"tie {name} {i}", 3) for i in range(count)]
            cases.append(krum_case(f"ties, {name}", tied, groups, faulty, strict))
            cases.append(krum_case(f"all equal, {name}", [7] * count, groups, faulty, strict))
    outlier = [1 if b != 2 and a != 2 else 10**30 for a, b in pairs(5)]
    cases.append(krum_case("one group far away", outlier, 5, 1, False))
    colluding = [0 if (a, b) == (5, 6) else (10**6 if b > 4 else 100 + a + b) for a, b in pairs(7)]
    cases.append(krum_case("two groups alike and far away", colluding, 7, 2, False))
    bad = []
    for groups, faulty in ((4, 1), (2, 0), (6, 2), (22, 10)):
        bad.append(
            {
                "name": f"{groups} groups, f = {faulty}",
                "groups": groups,
                "faulty": faulty,
                "strict": False,
                "distances": ["1"] * len(pairs(groups)),
                "scores": [],
                "selected": [],
                "bitmap": 0,
                "reason": "fewer than 2f + 3 groups",
            }
        )
    high = krum_case("all equal", [7] * 10, 5, 1, False)
    bad.append(high | {"selected": [1, 2, 3, 4], "bitmap": 30, "reason": "ties to the higher index"})
    loose = krum_case("one group far away", outlier, 5, 1, True)
    claim = krum_case("", outlier, 5, 1, False)
    bad.append(loose | {key: claim[key] for key in ("selected", "bitmap")} | {"reason": "strict, but m = G' - f"})
    return bundle(cases, bad)


def bits_of(value: float) -> str:
    return text(struct.pack(">d", value))


def quantise_case(
    name: str, values: list[float], clip: float, limit: int, lane_bits: int, draws: list[float] | None = None
) -> Case:
    draws = draws or [number(f"{name} {i}", 1 << 53) * 2.0**-53 for i in range(len(values))]
    result = []
    for x, u in zip(values, draws, strict=True):
        v = max(-clip, min(clip, x)) * limit / clip
        q = math.floor(v) + (1 if u < v - math.floor(v) else 0)
        result.append(max(-limit, min(limit, q)))
    return {
        "name": name,
        "values": [bits_of(x) for x in values],
        "uniforms": [bits_of(u) for u in draws],
        "clip": bits_of(clip),
        "maxMagnitude": limit,
        "laneBits": lane_bits,
        "valueCount": len(values),
        "quantised": [str(q) for q in result],
        "dequantised": [bits_of(float(q) * clip / limit) for q in result],
        "vector": text(ref.vector_of(result, lane_bits)),
    }


def quantise() -> Case:
    edges = [0.0, -0.0, 1.0, -1.0, 1.5, -1e300, 5e-324, -5e-324, 0.5, -0.5, math.nextafter(1.0, 0.0)]
    cases = []
    for lane_bits, limit in ((8, 21), (16, 5461), (32, 357913941), (8, 1)):
        spread = [(number(f"x {lane_bits} {limit} {i}", 1 << 30) / (1 << 29) - 1) * 1.2 for i in range(25)]
        cases.append(quantise_case(f"edges, {lane_bits} bits, q_max {limit}", edges, 1.0, limit, lane_bits))
        cases.append(quantise_case(f"spread, {lane_bits} bits, q_max {limit}", spread, 0.7, limit, lane_bits))
    # 0.7 * 15 / 0.7 is a hair above 15 in float64: with u = 0 it would round up to 16.
    cases.append(quantise_case("rounding beyond q_max", [0.7, -0.7], 0.7, 15, 8, [0.0, 0.0]))
    cases.append(quantise_case("integers stay, u = 0", [0.0, 0.25, -0.5, 1.0, -1.0], 1.0, 4, 8, [0.0] * 5))
    cases.append(quantise_case("small clip", [1e-9, -1e-9, 3e-10, 1.0], 1e-9, 5461, 16))
    bad = []
    for reason, value in (("nan", math.nan), ("infinite", math.inf), ("minus infinite", -math.inf)):
        case = quantise_case(reason, [0.0, 0.25], 1.0, 21, 8)
        bad.append(case | {"values": [bits_of(0.0), bits_of(value)], "reason": f"value 1 is {reason}"})
    short = quantise_case("short", [0.0, 0.25], 1.0, 21, 8)
    bad.append(short | {"uniforms": short["uniforms"][:1], "reason": "fewer uniforms than values"})
    bad.append(short | {"clip": bits_of(0.0), "reason": "clip is zero"})
    bad.append(short | {"clip": bits_of(math.nan), "reason": "clip is not a number"})
    bad.append(short | {"maxMagnitude": 0, "reason": "q_max is zero"})
    bad.append(short | {"laneBits": 12, "reason": "lanes of 12 bits"})
    return bundle(cases, bad)
