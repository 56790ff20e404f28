"""The commitment chain: how a vector is fixed before anybody sees it, and proved chunk by chunk afterwards.

The vector's words are cut into chunks; link[C] is a terminal, link[j] hashes chunk j and link[j + 1],
and link[0] is the root. A chain and not a Merkle tree: chunks are settled in order anyway, so one link
proves a chunk. The contract keeps the low 208 bits of a root or link. Every hash binds the round's
context and the owner's seat, so no group can copy another's vector. Twin of the contract's post and
settle.
"""

from collections.abc import Sequence
from typing import Final

from omnilytics.peers.errors import CommitmentError, ParameterError
from omnilytics.peers.hashing import HASH_BYTES, abi_words, keccak, require_length

WORD_BYTES: Final = 32
KEPT_BITS: Final = 208
_TAG_DOMAIN: Final = 0
_TERMINAL_DOMAIN: Final = 2


def tag(ctx: bytes, seat: int) -> bytes:
    """What every link of one owner in one round starts with: keccak(abi.encode(0, ctx, seat)). 32 bytes.

    seat = group * groupSize + position. Raises ParameterError for a wrong length or a negative seat.
    """
    return keccak(abi_words(_TAG_DOMAIN, require_length("context", ctx, HASH_BYTES), seat))


def terminal(ctx: bytes, seat: int) -> bytes:
    """The link behind the last chunk: keccak(abi.encode(2, ctx, seat)). 32 bytes. Errors as in tag."""
    return keccak(abi_words(_TERMINAL_DOMAIN, require_length("context", ctx, HASH_BYTES), seat))


def link(owner_tag: bytes, chunk_index: int, next_link: bytes, chunk: bytes) -> bytes:
    """One link: keccak(tag, uint256(chunk index), next link, chunk bytes). 32 bytes."""
    require_length("tag", owner_tag, HASH_BYTES)
    require_length("next link", next_link, HASH_BYTES)
    return keccak(owner_tag, abi_words(chunk_index), next_link, chunk)


def chunks(vector: bytes, chunk_words: int) -> list[bytes]:
    """The vector in chunks of chunk_words words of 32 bytes; the last may be shorter.

    Raises ParameterError for an empty vector, one that is not whole words, or chunks of no words.
    """
    if chunk_words < 1:
        raise ParameterError(f"chunks of {chunk_words} words; need at least 1")
    if not vector or len(vector) % WORD_BYTES:
        raise ParameterError(f"vector of {len(vector)} bytes is not made of words of 32 bytes")
    size = chunk_words * WORD_BYTES
    return [vector[start : start + size] for start in range(0, len(vector), size)]


def links(vector: bytes, chunk_words: int, ctx: bytes, seat: int) -> list[bytes]:
    """All C + 1 links of a vector: link[0] is the root, link[C] the terminal. Errors as in chunks and tag."""
    return _links_of(chunks(vector, chunk_words), 0, terminal(ctx, seat), tag(ctx, seat))


def root(vector: bytes, chunk_words: int, ctx: bytes, seat: int) -> bytes:
    """What the owner commits to: the first link. 32 bytes. Errors as in links."""
    return links(vector, chunk_words, ctx, seat)[0]


def kept_root(full_root: bytes) -> int:
    """What the contract keeps of a root or link: its low 208 bits."""
    return int.from_bytes(require_length("root", full_root, HASH_BYTES), "big") % (1 << KEPT_BITS)


def verify_part(
    running_link: int | bytes,
    first_chunk: int,
    data: bytes,
    next_link: bytes,
    chunk_words: int,
    word_count: int,
    ctx: bytes,
    seat: int,
) -> int:
    """Check one posted part as the contract's post does. Returns the chunk that the next part starts with.

    `running_link` is the committed root, or the next_link of the part before: 32 bytes, or the low 208
    bits of them that the contract keeps. `word_count` is the whole vector's. A part is whole chunks;
    only the vector's last may be shorter. Raises CommitmentError when the part is not what was
    committed to.
    """
    size, total = chunk_words * WORD_BYTES, word_count * WORD_BYTES
    start = first_chunk * size
    end = start + len(data)
    if not 0 <= start < end <= total:
        raise CommitmentError(f"part is bytes {start} to {end} of a vector of {total} bytes")
    is_last = end == total
    if not is_last and len(data) % size:
        raise CommitmentError(f"part of {len(data)} bytes is not whole chunks of {size} bytes")
    if is_last and next_link != terminal(ctx, seat):
        raise CommitmentError("the last part does not end in the seat's terminal")
    kept = kept_root(running_link) if isinstance(running_link, bytes) else running_link
    if kept_root(_links_of(chunks(data, chunk_words), first_chunk, next_link, tag(ctx, seat))[0]) != kept:
        raise CommitmentError(f"part from chunk {first_chunk} is not what seat {seat} committed to")
    return first_chunk + -(-len(data) // size)


def split_parts(vector: bytes, chunk_words: int, max_bytes: int) -> list[tuple[int, bytes, int]]:
    """The vector in parts for post: (first chunk, data, next chunk), whole chunks, at most max_bytes of
    data each.

    The link to send with a part is links(...)[next chunk]. Raises ParameterError when not even one
    chunk fits.
    """
    size = chunk_words * WORD_BYTES
    pieces = chunks(vector, chunk_words)
    step = max_bytes // size
    if step < 1 and len(vector) > max_bytes:
        raise ParameterError(f"a chunk of {size} bytes does not fit a part of {max_bytes} bytes")
    step = max(step, 1)
    return [
        (first, b"".join(pieces[first : first + step]), min(first + step, len(pieces)))
        for first in range(0, len(pieces), step)
    ]


def settle_data(chunk_index: int, owners: Sequence[tuple[Sequence[bytes], Sequence[bytes]]]) -> bytes:
    """The argument `data` of settle for one chunk: for each owner the next chunk's link, then the
    chunk's words.

    `owners` are (links, chunks) of the owners of the complete groups, by group and then by position. Raises
    CommitmentError when an owner's lists do not have this chunk, or the owners' chunks differ in length.
    """
    parts: list[bytes] = []
    for owner_links, owner_chunks in owners:
        if len(owner_links) != len(owner_chunks) + 1 or not 0 <= chunk_index < len(owner_chunks):
            raise CommitmentError(f"an owner's chain has no chunk {chunk_index}")
        if len(owner_chunks[chunk_index]) != len(owners[0][1][chunk_index]):
            raise CommitmentError(f"owners have chunks {chunk_index} of different lengths")
        parts += [require_length("link", owner_links[chunk_index + 1], HASH_BYTES), owner_chunks[chunk_index]]
    return b"".join(parts)


def _links_of(pieces: Sequence[bytes], first_chunk: int, last_link: bytes, owner_tag: bytes) -> list[bytes]:
    """Links of consecutive chunks, from the last one backwards; last_link stands at the end."""
    backwards = [last_link]
    for offset in reversed(range(len(pieces))):
        backwards.append(link(owner_tag, first_chunk + offset, backwards[-1], pieces[offset]))
    return backwards[::-1]
