"""What a task says about itself in public, as JSON in the TaskCreated event: owners read it before they join."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.peers.errors import OmniLyticsError, ParameterError

SPEC_VERSION = 1
PROTECTIONS = ("envelope",)
MAX_SPEC_BYTES = 20_000


@dataclass(frozen=True)
class TaskSpec:
    """Architecture, features and classes of the model, and what an owner does in a round.

    clip is the largest magnitude of a gradient's value (clipped, not refused); batch_size is in rows.
    """

    architecture: str
    feature_count: int
    classes: tuple[str, ...]
    clip: float
    batch_size: int
    protection: str = "envelope"
    version: int = SPEC_VERSION

    @property
    def model(self) -> Model:
        """The model without its weights."""
        return Model(Architecture.parse(self.architecture), self.feature_count, len(self.classes))

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
            and spec.protection in PROTECTIONS
            and type(spec.clip) in (int, float)  # a bool is an int too, but none of these
            and math.isfinite(spec.clip)
            and spec.clip > 0
            and type(spec.batch_size) is int
            and spec.batch_size >= 1
            and type(spec.feature_count) is int
            and all(isinstance(name, str) for name in spec.classes)
            and len(set(spec.classes)) == len(spec.classes)
        )
        if not fine or spec.model.value_count < 1:
            raise ValueError("a value is out of range")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, OmniLyticsError) as error:
        raise ParameterError(
            f"the task's description cannot be used: {error}", help="do not join it, or upgrade the program"
        ) from error
    return spec
