"""What a task says about itself in public, as JSON in the TaskCreated event: owners read it before they join."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

from omnilytics.daemon.protection.catalogue import Protection, protection_named
from omnilytics.daemon.protection.sides import OwnerSide
from omnilytics.peers.errors import OmniLyticsError, ParameterError

SPEC_VERSION = 1
MAX_SPEC_BYTES = 20_000


@dataclass(frozen=True)
class TaskSpec:
    """What an owner computes on (architecture, features, classes), what it does in a round, and under which protection.

    clip is the largest magnitude of a statistic's value (clipped, not refused); batch_size is the rows of an owner's
    batch; where each row is used once, the least, and all rows are used up evenly over the rounds.
    """

    architecture: str
    feature_count: int
    classes: tuple[str, ...]
    clip: float
    batch_size: int
    protection: str = "envelope"
    version: int = SPEC_VERSION

    @property
    def side(self) -> OwnerSide:
        """What owners compute. Raises ParameterError where the protection cannot be had for this architecture."""
        return self.side_for(thin_sums=False)

    def side_for(self, thin_sums: bool) -> OwnerSide:
        """The same for an owner that may accept that sums of few rows give single ones away."""
        return self.means.owner_side(self.architecture, self.feature_count, len(self.classes), thin_sums)

    @property
    def means(self) -> Protection:
        """The protection. Raises ParameterError for an unknown one."""
        return protection_named(self.protection)

    @property
    def least_group_rows(self) -> int:
        """Rows that a group's sum must hold so that it gives no single row away."""
        return self.means.least_group_rows(self.architecture, self.feature_count, len(self.classes))

    def encode(self) -> bytes:
        """JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()


def decode_spec(data: bytes) -> TaskSpec:
    """Reads and checks a task's spec. Raises ParameterError: such a task cannot be joined."""
    try:
        if len(data) > MAX_SPEC_BYTES:
            raise ValueError("too long")
        said = json.loads(data)
        if not isinstance(said["classes"], list):
            raise ValueError("classes are no list")
        said["classes"] = tuple(said["classes"])
        spec = TaskSpec(**said)
        fine = (
            spec.version == SPEC_VERSION
            and type(spec.clip) in (int, float)  # a bool is an int too, but none of these
            and math.isfinite(spec.clip)
            and spec.clip > 0
            and type(spec.batch_size) is int
            and spec.batch_size >= 1
            and type(spec.feature_count) is int
            and all(isinstance(name, str) for name in spec.classes)
            and len(set(spec.classes)) == len(spec.classes)
        )
        if not fine or spec.side.value_count < 1:
            raise ValueError("a value is out of range")
        if spec.means.clip not in (None, spec.clip):
            raise ValueError(f"a clip of {spec.clip}, protection {spec.protection} has {spec.means.clip}")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, OmniLyticsError) as error:
        cure = error.help if isinstance(error, ParameterError) else ParameterError.default_help
        told = f"; {cure}" if cure != ParameterError.default_help else ""
        raise ParameterError(
            f"the task's description cannot be used: {error}", help=f"do not join it, or upgrade the program{told}"
        ) from error
    return spec
