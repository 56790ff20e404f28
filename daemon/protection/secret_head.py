"""The secret-head protection: owners see a feature map, the model owner keeps the model.

For half the squared error on one-hot targets t, the gradient of a linear head W on features phi is, over any rows,
G W - b with G = mean phi phi^T and b = mean phi t^T: a function of W that needs no W to write down. Owners post that
function, the statistic, in place of one gradient. The model owner evaluates it where it likes, and goes straight to
its root, the ridge solution, at a head that nobody else ever sees. Rounds add fresh rows to G and b.

A statistic is the upper triangle of G (row-major, with the diagonal), then b (row-major): w (w + 1) / 2 + w C values,
w = width + 1, all in [0, 1], so that a clip of 1.0 never cuts. Lanes of 16 bits are enough, 8 are not.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.protection.feature_map import FeatureMap, MapShape, decode_map
from omnilytics.daemon.protection.group_choice import good_groups, hold_out_choice, scaled_krum_choice
from omnilytics.daemon.protection.ridge import DEFAULT_REGULARISER, Moments, check_labels, moment_count
from omnilytics.daemon.protection.sides import Learned, Published
from omnilytics.daemon.training.data import Dataset
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.peers.errors import ModelMismatchError, ParameterError, VectorError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

MAGIC = b"OLSH"
VERSION = 1
MAX_HEADER_BYTES = 256

_PREFIX = struct.Struct(">4sBH")
_MEMORY = struct.Struct(">4sBI")
_MEMORY_MAGIC = b"OLSM"
_KEYS = {"feature_count", "map", "round"}

#: See least_group_rows.
GROUP_ROWS_PER_VALUE = 2
NUMBERS_IN_PER_NUMBER_OUT = 2.5

#: Nobody posts the only row of a class: see least_class_rows.
DEFAULT_LEAST_CLASS_ROWS = 2


def least_group_rows(inputs: int, width: int, class_count: int) -> int:
    """Rows that a group's sum must hold in a round at the least: the larger of 2 w and 2.5 d / inputs.

    Two attacks bound it, both by whoever holds a group's mean of phi phi^T over N rows: the model owner.

    Recovery. All rows are sought at once, so that their moments come out as posted: d numbers known, N * inputs
    sought. On digits rows come out better than the attacker's own rows of the same classes match them as soon as
    d / (N * inputs) is above about 0.4, at any width tried (scripts/attack privacy), even where N is above w.

    Membership. Of a row x that it can think of, the attacker asks whether it is in the sum, by its leverage
    h = phi(x)^T (sum phi phi^T)^-1 phi(x). With N <= w the answer is certain: with N < w phi(x) lies in the sum's span
    or does not; with N = w h is 1 for all that are in, and for nobody else. Beyond, h averages w / N for rows that are
    in, and about w / (N - w) for others, which run into each other as N / w grows. On digits a test by h tells
    members from others right in 100 % of pairs at N = w, 93 % at 2 w, 78 % at 3 w and 70 % at 4 w (128 features; 50 %
    is guessing; scripts/secret-head-figures). Nothing makes it exactly 50 %: a mean always says something of what it
    is a mean of.
    """
    recovery = math.ceil(NUMBERS_IN_PER_NUMBER_OUT * moment_count(width, class_count) / inputs)
    return max(GROUP_ROWS_PER_VALUE * (width + 1), recovery)


def least_class_rows(inputs: int, width: int) -> int:
    """Rows of a class, in an owner's batch, below which it leaves the class out of a round.

    b holds for each class the sum of phi over its rows: w equations in rows * inputs unknowns. One row alone can be
    read off by least squares, and as long as the equations are not fewer than the unknowns there is nothing to hide
    behind. So: the first number of rows with rows * inputs > w, and not below 2.
    """
    return max(2, (width + 1) // inputs + 1)


@dataclass(frozen=True)
class PublishedMap:
    """What an owner of a secret-head task reads: the map and the scaling. Raises ParameterError unless they fit."""

    feature_map: FeatureMap
    scaling: FeatureScaling

    def __post_init__(self) -> None:
        if self.scaling.column_count != self.feature_map.inputs:
            raise ParameterError(
                f"scaling has {self.scaling.column_count} columns, the feature map {self.feature_map.inputs}"
            )

    @property
    def digest(self) -> bytes:
        """SHA-256 of map and scaling: the same in all rounds of a task, as the map is."""
        return hashlib.sha256(encode_map_payload(self, 0)).digest()


def encode_map_payload(published: PublishedMap, round_number: int) -> bytes:
    """The bytes to publish.

        magic "OLSH" (4) ‖ version 1 (1) ‖ header length (2, big endian) ‖ header ‖ map ‖ mean ‖ scale

    The header is JSON in ASCII with sorted keys and no spaces: feature_count, map, round. The map is a seed (32) or
    the trunk's weights; these, mean and scale are little-endian float32. Negative zeros are written as zeros.
    """
    feature_map, scaling = published.feature_map, published.scaling
    fields = {"feature_count": feature_map.inputs, "map": feature_map.shape.describe(), "round": round_number}
    header = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")
    body = b"".join((array + 0.0).astype("<f4").tobytes() for array in (scaling.mean, scaling.scale))
    return _PREFIX.pack(MAGIC, VERSION, len(header)) + header + feature_map.encode() + body


def decode_map_payload(data: bytes, shape: MapShape, feature_count: int, round_number: int) -> PublishedMap:
    """Read a published map, strictly: shape, feature count and round are what the task on the chain says.

    Raises ModelMismatchError for anything but bytes that `encode_map_payload` writes for these. The owner then sits
    the round out.
    """
    if len(data) < _PREFIX.size or data[:4] != MAGIC:
        raise ModelMismatchError("feature map: the first bytes are not a feature map's")
    _, version, header_length = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise ModelMismatchError(f"feature map has version {version}; this program reads version {VERSION}")
    start = _PREFIX.size + header_length
    if header_length > MAX_HEADER_BYTES or start > len(data):
        raise ModelMismatchError(f"feature map: header of {header_length} bytes in {len(data)} bytes")
    try:
        fields = json.loads(data[_PREFIX.size : start].decode("ascii"))
    except (ValueError, RecursionError):
        raise ModelMismatchError("feature map: header is not JSON") from None
    if not isinstance(fields, dict) or fields.keys() != _KEYS:
        raise ModelMismatchError("feature map: header has missing or unknown fields")
    wanted = {"feature_count": feature_count, "map": shape.describe(), "round": round_number}
    for name, value in wanted.items():
        if type(fields[name]) is not type(value) or fields[name] != value:
            raise ModelMismatchError(f"feature map: {name} is not the task's and the round's, {value!r}")
    middle = start + shape.byte_count(feature_count)
    if len(data) != middle + 8 * feature_count:
        raise ModelMismatchError(f"feature map has {len(data)} bytes, its header asks for {middle + 8 * feature_count}")
    values = np.frombuffer(data, dtype="<f4", offset=middle).astype(np.float64)
    try:
        scaling = FeatureScaling(values[:feature_count], values[feature_count:])
        published = PublishedMap(decode_map(shape, feature_count, data[start:middle]), scaling)
    except ParameterError as error:
        raise ModelMismatchError(f"feature map: {error.message}") from None
    if encode_map_payload(published, round_number) != data:
        raise ModelMismatchError("feature map is not in its one encoding")
    return published


@dataclass(frozen=True)
class SecretHeadOwner:
    """A data owner's side of secret-head.

    What it hides: the model. Owners, mates, chain readers and the broker see a feature map, which with random features
    says nothing of any row or label; the head is computed by the model owner alone and never published. What it does
    not hide: the map itself; from the model owner, the mean second moments of each group's rows, which say more of
    them than one gradient would (which classes they hold and in what shares, and whether a given row is among them
    where rows are few: see least_group_rows). A trunk is a model that the model owner chose: one that is made for it
    can tell rows of a group apart, as hostile architectures always can, so owners had better accept random
    features only. Every row is used in one round only, since a row in two rounds' sums over otherwise
    known rows could be singled out by their difference, and would be counted twice in the head besides.

    Rows of classes of which a batch has fewer than `least_class_rows` are left out. Raises ParameterError for numbers
    out of bounds.
    """

    #: Each row is used in one posted round of a task, ever.
    fresh_rows: ClassVar[bool] = True
    #: Statistics are in [0, 1].
    clip: ClassVar[float] = 1.0
    #: In lanes of 8 bits the noise of rounding hides the smaller eigenvalues of G, and accuracy is lost altogether.
    least_lane_bits: ClassVar[int] = 16
    #: The published map, and so its digest, is the same in every round.
    same_every_round: ClassVar[bool] = True
    promise: ClassVar[str] = (
        "secret-head: nobody but the model owner ever sees the model; the model owner sees sums over your whole group "
        "of your rows' features and labels (second moments), never those of one owner; each row is used once"
    )
    #: What owners are shown besides where the map is a trunk.
    trunk_warning: ClassVar[str] = (
        "the feature map is the model owner's own network: one made for it can tell single rows of a group apart"
    )

    shape: MapShape
    feature_count: int
    class_count: int
    least_class_rows: int = DEFAULT_LEAST_CLASS_ROWS

    def __post_init__(self) -> None:
        if self.feature_count < 1:
            raise ParameterError(f"a feature map needs at least 1 feature, not {self.feature_count}")
        if self.class_count < 2:
            raise ParameterError(f"a model needs at least 2 classes, not {self.class_count}")
        if self.least_class_rows < 1:
            raise ParameterError(f"least rows of a class, {self.least_class_rows}, is below 1")

    @property
    def value_count(self) -> int:
        """d = w (w + 1) / 2 + w * class_count, w = width + 1."""
        return moment_count(self.shape.width, self.class_count)

    def read(self, plaintext: bytes, round_number: int) -> PublishedMap:
        """See OwnerSide.read."""
        return decode_map_payload(plaintext, self.shape, self.feature_count, round_number)

    def statistic(self, published: Published, features: Floats, labels: Labels) -> Floats:
        """The mean moments of the rows, float64[value_count], in [0, 1].

        Raises ParameterError for shapes and labels that do not fit; VectorError when no class has enough rows.
        """
        if not isinstance(published, PublishedMap):
            raise ParameterError("a secret-head statistic needs what a secret-head payload holds")
        check_labels(labels, len(features), self.class_count)
        enough = np.bincount(labels)[labels] >= self.least_class_rows
        if not enough.any():
            raise VectorError(
                f"no class has {self.least_class_rows} rows in the batch; not posting",
                help="use larger batches, or more rows a class",
            )
        mapped = published.feature_map.apply(features[enough])
        return Moments.of_rows(mapped, labels[enough], self.class_count).statistic()


@dataclass(frozen=True)
class SecretHeadModel:
    """The model owner's side of secret-head: adds up moments, and keeps the ridge solution to itself.

    See SecretHeadOwner for what is hidden from whom. The model is the map and Learned.weights, a head of
    w * class_count values that leaves the process nowhere; Learned.memory holds the sum of the averages of all rounds.

    `validation` are the model owner's own rows, scaled; with them groups are selected by hold-out, without by
    Multi-Krum: `selection` ("hold-out" or "krum") says otherwise. Raises ParameterError when the parts do not fit.
    """

    feature_map: FeatureMap
    class_count: int
    scaling: FeatureScaling
    validation: Dataset | None = None
    regulariser: float = DEFAULT_REGULARISER
    selection: str = ""

    def __post_init__(self) -> None:
        SecretHeadOwner(self.feature_map.shape, self.feature_map.inputs, self.class_count)
        PublishedMap(self.feature_map, self.scaling)
        if not (math.isfinite(self.regulariser) and self.regulariser > 0.0):
            raise ParameterError(f"regulariser {self.regulariser} is not above 0")
        if self.selection not in ("", "krum", "hold-out"):
            raise ParameterError(f"unknown selection {self.selection!r}; use krum or hold-out")
        if self.selection == "hold-out" and self.validation is None:
            raise ParameterError("selection by hold-out needs rows of the model owner's own")
        if self.validation is not None and len(self.validation.classes) != self.class_count:
            raise ParameterError(
                f"the validation rows have {len(self.validation.classes)} classes, the task {self.class_count}"
            )

    def begin(self) -> Learned:
        """No rounds, a head of zeros."""
        w = self.feature_map.shape.width + 1
        return self._learned(0, Moments(np.zeros((w, w)), np.zeros((w, self.class_count))))

    def publish(self, learned: Learned, round_number: int, entropy: bytes) -> bytes:
        """The map and the scaling: nothing of what was learned, nothing of the entropy."""
        return encode_map_payload(PublishedMap(self.feature_map, self.scaling), round_number)

    def choose(
        self, learned: Learned, entropy: bytes, means: Mapping[int, Floats], faulty: int, strict: bool
    ) -> tuple[int, ...]:
        """See ModelSide.choose and group_choice.py. Raises VectorError for a statistic that does not fit."""
        moments = {group: self._moments(values) for group, values in means.items()}
        if self.validation is None or self.selection == "krum":
            return scaled_krum_choice(moments, faulty, strict)
        mapped = self.feature_map.apply(self.validation.features)
        labels = self.validation.labels
        _, before = self._recall(learned)
        return hold_out_choice(before, moments, mapped, labels, faulty, strict, self.regulariser)

    def trust(
        self, learned: Learned, entropy: bytes, means: Mapping[int, Floats], selected: tuple[int, ...]
    ) -> tuple[int, ...]:
        """All groups that are good by the validation rows, however many: see group_choice.good_groups."""
        if self.validation is None or self.selection == "krum":
            return selected
        moments = {group: self._moments(values) for group, values in means.items()}
        mapped = self.feature_map.apply(self.validation.features)
        return good_groups(self._recall(learned)[1], moments, mapped, self.validation.labels, self.regulariser)

    def learn(self, learned: Learned, entropy: bytes, average: Floats) -> Learned:
        """Adds the round's average to the moments, and solves. Raises VectorError when it does not fit."""
        rounds, before = self._recall(learned)
        return self._learned(rounds + 1, before + self._moments(average))

    def accuracy(self, learned: Learned, rows: Dataset) -> float:
        """Fraction of rows (features scaled) whose class the secret head gets right; ties to the lower class."""
        return float((self.predict(learned, rows.features) == rows.labels).mean())

    def predict(self, learned: Learned, features: Floats) -> Labels:
        """The class of each row, int64[rows], of float64[rows, columns], scaled."""
        head = learned.weights.reshape(self.feature_map.shape.width + 1, self.class_count)
        classes: Labels = (self.feature_map.apply(features) @ head).argmax(axis=1).astype(np.int64)
        return classes

    def rounds(self, learned: Learned) -> int:
        """Rounds taken in so far."""
        return self._recall(learned)[0]

    def _moments(self, values: Floats) -> Moments:
        moments = Moments.from_statistic(values, self.feature_map.shape.width, self.class_count)
        # Honest values are in [0, 1]: what is not is pulled in, so that poison is bounded.
        return Moments(np.clip(moments.gram, 0.0, 1.0), np.clip(moments.cross, 0.0, 1.0))

    def _learned(self, rounds: int, moments: Moments) -> Learned:
        memory = _MEMORY.pack(_MEMORY_MAGIC, VERSION, rounds) + moments.statistic().astype("<f8").tobytes()
        return Learned(moments.solve(self.regulariser).ravel(), memory)

    def _recall(self, learned: Learned) -> tuple[int, Moments]:
        width, memory = self.feature_map.shape.width, learned.memory
        count = moment_count(width, self.class_count)
        if len(memory) != _MEMORY.size + 8 * count or memory[:5] != _MEMORY_MAGIC + bytes([VERSION]):
            raise ParameterError("what was learned before is not of this task's protection")
        values = np.frombuffer(memory, dtype="<f8", offset=_MEMORY.size).astype(np.float64)
        return int(_MEMORY.unpack_from(memory)[2]), Moments.from_statistic(values, width, self.class_count)
