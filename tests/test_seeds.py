import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnilytics.peers.errors import KeyFileError, MessageError, ParameterError
from omnilytics.peers.keys import LOW_ORDER_POINTS
from omnilytics.peers.seeds import EphemeralKey, acknowledgement, derive_pair_seed, public_from_secret

CTX = b"c" * 32
LOW, HIGH = b"\xee" * 20, b"\x11" * 20
OWN, MATE = EphemeralKey.from_entropy(b"1" * 32), EphemeralKey.from_entropy(b"2" * 32)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_both_ends_derive_the_same_seed(one: bytes, two: bytes, ctx: bytes) -> None:
    first, second = EphemeralKey.from_entropy(one), EphemeralKey.from_entropy(two)
    if first.public == second.public:
        return
    seed = derive_pair_seed(first, second.public, ctx, LOW, HIGH, True)
    assert derive_pair_seed(second, first.public, ctx, HIGH, LOW, False) == seed
    assert len(seed) == 32
    assert acknowledgement(seed) != seed


def test_everything_is_bound() -> None:
    other = EphemeralKey.from_entropy(b"3" * 32)
    seeds = [
        derive_pair_seed(OWN, MATE.public, CTX, LOW, HIGH, True),
        derive_pair_seed(OWN, MATE.public, CTX, LOW, HIGH, False),
        derive_pair_seed(OWN, MATE.public, CTX, HIGH, LOW, True),
        derive_pair_seed(OWN, MATE.public, b"d" * 32, LOW, HIGH, True),
        derive_pair_seed(OWN, MATE.public, CTX, LOW, b"x" * 20, True),
        derive_pair_seed(OWN, MATE.public, CTX, b"x" * 20, HIGH, True),
        derive_pair_seed(OWN, other.public, CTX, LOW, HIGH, True),
        derive_pair_seed(other, MATE.public, CTX, LOW, HIGH, True),
    ]
    assert len(set(seeds)) == len(seeds)
    assert len({acknowledgement(seed) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=lambda point: point.hex())
def test_a_shared_secret_of_zero_is_refused(point: bytes) -> None:
    with pytest.raises(MessageError):
        derive_pair_seed(OWN, point, CTX, LOW, HIGH, True)


def test_our_own_key_sent_back_is_refused() -> None:
    with pytest.raises(MessageError):
        derive_pair_seed(OWN, OWN.public, CTX, LOW, HIGH, True)


def test_mistakes_of_the_caller_are_refused() -> None:
    good = (MATE.public, CTX, LOW, HIGH)
    for place in range(len(good)):
        mate, ctx, low, high = (value[:-1] if i == place else value for i, value in enumerate(good))
        with pytest.raises(ParameterError):
            derive_pair_seed(OWN, mate, ctx, low, high, True)
    with pytest.raises(ParameterError):
        derive_pair_seed(OWN, MATE.public, CTX, LOW, LOW, True)
    with pytest.raises(KeyFileError):
        EphemeralKey(OWN.secret, MATE.public)
    with pytest.raises(ParameterError):
        acknowledgement(bytes(31))
    assert public_from_secret(OWN.secret) == OWN.public
