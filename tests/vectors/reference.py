"""A naive second implementation, in plain Python integers, for the vectors to be computed with.

Slow and straight from the specifications, and nothing of it is shared with omnilytics.peers: Keccak-256
(the Keccak team's summary), AES-256 (FIPS 197), X25519 (RFC 7748), XSalsa20-Poly1305 (Bernstein; RFC
8439 for Poly1305). Only BLAKE2b is the standard library's on both sides.
"""

import hashlib
import struct

MASK64 = (1 << 64) - 1


def _rotate64(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & MASK64 if bits else value


def keccak256(data: bytes) -> bytes:
    """Keccak with rate 136 and Ethereum's padding byte 0x01."""
    state = [[0] * 5 for _ in range(5)]
    padded = bytearray(data + b"\x01" + bytes(-(len(data) + 1) % 136))
    padded[-1] |= 0x80
    for start in range(0, len(padded), 136):
        for index, (word,) in enumerate(struct.iter_unpack("<Q", padded[start : start + 136])):
            state[index % 5][index // 5] ^= word
        state = _keccak_permutation(state)
    return b"".join(state[index % 5][index // 5].to_bytes(8, "little") for index in range(4))


def _keccak_permutation(a: list[list[int]]) -> list[list[int]]:
    register = 1
    for _ in range(24):
        c = [a[x][0] ^ a[x][1] ^ a[x][2] ^ a[x][3] ^ a[x][4] for x in range(5)]
        d = [c[(x - 1) % 5] ^ _rotate64(c[(x + 1) % 5], 1) for x in range(5)]
        a = [[a[x][y] ^ d[x] for y in range(5)] for x in range(5)]
        x, y, current = 1, 0, a[1][0]
        for t in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            current, a[x][y] = a[x][y], _rotate64(current, (t + 1) * (t + 2) // 2 % 64)
        for y in range(5):
            row = [a[x][y] for x in range(5)]
            for x in range(5):
                a[x][y] = row[x] ^ (~row[(x + 1) % 5] & row[(x + 2) % 5] & MASK64)
        for j in range(7):
            if register & 1:
                a[0][0] ^= 1 << ((1 << j) - 1)
            register = (register << 1) ^ (0x171 if register & 0x80 else 0)
    return a


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def blake2b(data: bytes, key: bytes, person: str) -> bytes:
    return hashlib.blake2b(data, key=key, person=person.encode(), digest_size=32).digest()


def _times(a: int, b: int) -> int:
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = (a << 1) ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def _substitute(value: int) -> int:
    inverse = next((c for c in range(256) if _times(value, c) == 1), 0)
    result = 0x63
    for shift in range(5):
        result ^= ((inverse << shift) | (inverse >> (8 - shift))) & 0xFF
    return result


_SBOX = [_substitute(value) for value in range(256)]


def aes256_key_stream(key: bytes, count: int) -> bytes:
    """`count` bytes of AES-256-CTR from counter block zero (FIPS 197, SP 800-38A)."""
    words = [list(key[i : i + 4]) for i in range(0, 32, 4)]
    constant = 1
    for i in range(8, 60):
        previous = words[-1]
        if i % 8 == 0:
            previous = [_SBOX[b] for b in previous[1:] + previous[:1]]
            previous[0] ^= constant
            constant = _times(constant, 2)
        elif i % 8 == 4:
            previous = [_SBOX[b] for b in previous]
        words.append([a ^ b for a, b in zip(words[i - 8], previous, strict=True)])
    round_keys = [[byte for w in words[i : i + 4] for byte in w] for i in range(0, 60, 4)]
    blocks = [_aes_block(counter.to_bytes(16, "big"), round_keys) for counter in range(-(-count // 16))]
    return b"".join(blocks)[:count]


def _aes_block(block: bytes, round_keys: list[list[int]]) -> bytes:
    state = [a ^ b for a, b in zip(block, round_keys[0], strict=True)]
    for number, round_key in enumerate(round_keys[1:], 1):
        state = [_SBOX[state[(i + 4 * (i % 4)) % 16]] for i in range(16)]
        if number < len(round_keys) - 1:
            mixed = []
            for column in range(0, 16, 4):
                a = state[column : column + 4]
                mixed += [
                    _times(a[r], 2) ^ _times(a[(r + 1) % 4], 3) ^ a[(r + 2) % 4] ^ a[(r + 3) % 4] for r in range(4)
                ]
            state = mixed
        state = [a ^ b for a, b in zip(state, round_key, strict=True)]
    return bytes(state)


PRIME = 2**255 - 19


def x25519(secret: bytes, public: bytes) -> bytes:
    """The Montgomery ladder of RFC 7748, section 5."""
    k = int.from_bytes(secret, "little") & ~7 & (1 << 255) - 1 | 1 << 254
    x1 = int.from_bytes(public, "little") & (1 << 255) - 1
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a, b * b, d * a, c * b
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % PRIME, x1 * (da - cb) ** 2 % PRIME
        x2, z2 = aa * bb % PRIME, e * (aa + 121665 * e) % PRIME
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, PRIME - 2, PRIME) % PRIME).to_bytes(32, "little")


BASE_POINT = (9).to_bytes(32, "little")


def _salsa20_rounds(state: list[int]) -> list[int]:
    x = list(state)

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for target, one, two, bits in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
            total = (x[one] + x[two]) & 0xFFFFFFFF
            x[target] ^= ((total << bits) | (total >> (32 - bits))) & 0xFFFFFFFF

    for _ in range(10):
        for i in range(4):
            quarter(*(((5 * i + 4 * j) % 16) for j in range(4)))
        for i in range(4):
            quarter(*(4 * i + (i + j) % 4 for j in range(4)))
    return x


def _salsa20_state(key: bytes, middle: bytes) -> list[int]:
    constants = struct.unpack("<4I", b"expand 32-byte k")
    k, m = struct.unpack("<8I", key), struct.unpack("<4I", middle)
    return [constants[0], *k[:4], constants[1], *m, constants[2], *k[4:], constants[3]]


def _hsalsa20(key: bytes, middle: bytes) -> bytes:
    x = _salsa20_rounds(_salsa20_state(key, middle))
    return struct.pack("<8I", *(x[i] for i in (0, 5, 10, 15, 6, 7, 8, 9)))


def box(secret: bytes, public: bytes, nonce: bytes, plaintext: bytes) -> bytes:
    """NaCl's crypto_box: nonce, Poly1305 tag, ciphertext."""
    key = _hsalsa20(_hsalsa20(x25519(secret, public), bytes(16)), nonce[:16])
    stream = b""
    for counter in range(-(-(32 + len(plaintext)) // 64)):
        state = _salsa20_state(key, nonce[16:] + counter.to_bytes(8, "little"))
        rounds = _salsa20_rounds(state)
        stream += struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(state, rounds, strict=True)))
    ciphertext = bytes(a ^ b for a, b in zip(plaintext, stream[32:], strict=False))
    return nonce + _poly1305(stream[:32], ciphertext) + ciphertext


def _poly1305(key: bytes, data: bytes) -> bytes:
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for start in range(0, len(data), 16):
        total = (total + int.from_bytes(data[start : start + 16] + b"\x01", "little")) * r % (2**130 - 5)
    return ((total + int.from_bytes(key[16:], "little")) % 2**128).to_bytes(16, "little")


def lanes_of(vector: bytes, bits: int) -> list[int]:
    """Lanes of a serialised vector: big endian, lane 0 first."""
    step = bits // 8
    return [int.from_bytes(vector[i : i + step], "big") for i in range(0, len(vector), step)]


def vector_of(lanes: list[int], bits: int) -> bytes:
    """Serialised vector of integers of any sign, padded with zero lanes to whole words."""
    padded = lanes + [0] * (-len(lanes) % (256 // bits))
    return b"".join((lane % (1 << bits)).to_bytes(bits // 8, "big") for lane in padded)


def lifted(lane: int, bits: int) -> int:
    return lane - (1 << bits) if lane >= 1 << (bits - 1) else lane


def stream(seed: bytes, kind: str, context: bytes, bits: int, count: int) -> tuple[bytes, bytes, list[int]]:
    """Key, raw key stream and lanes of the mask generator."""
    key = blake2b(kind.encode() + context, seed, "omnilytics-prg")
    raw = aes256_key_stream(key, count * bits // 8)
    step = bits // 8
    return key, raw, [int.from_bytes(raw[i : i + step], "little") for i in range(0, len(raw), step)]


def chain(chunk_list: list[bytes], ctx: bytes, seat: int) -> tuple[bytes, bytes, list[bytes]]:
    """Tag, terminal and links of the commitment chain."""
    owner_tag = keccak256(word(0) + ctx + word(seat))
    end = keccak256(word(2) + ctx + word(seat))
    result = [end]
    for index in reversed(range(len(chunk_list))):
        result.insert(0, keccak256(owner_tag + word(index) + result[0] + chunk_list[index]))
    return owner_tag, end, result
