"""What trains a task's model: the protocol of a trainer, those that are built in, and those that are installed beside.

A task names its trainer by the first word of its architecture ("mlp" in "mlp:64,32") and its gradients are all that
the market ever takes from it. Built in are softmax and mlp (models.py), and as an extra torch (torch_modules.py). A
package that is installed here adds another with an entry point of the group GROUP, whose name is that first word:

    [project.entry-points."omnilytics.trainers"]
    hinge = "my_package.hinge:HingeTrainer"

The object is called with (architecture, feature count, class count) and returns a Trainer; docs/trainers.md has an
example. A task is a stranger's text and must never decide which code runs: a trainer that is not built in is loaded
only where this process was told to `allow` its name, from the owner's policy or the model owner's own command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.peers.errors import OmniLyticsError, ParameterError, VectorError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
#: Names and shapes of a model's tensors, which stand one after the other in the flat vector, each in row-major order.
Tensors = tuple[tuple[str, tuple[int, ...]], ...]

GROUP = "omnilytics.trainers"
#: Values of a model: a trainer that wants more is refused before anything of that size is made.
MAX_VALUES = 1 << 26

_ARCHITECTURE = re.compile(r"([a-z][a-z0-9_-]{0,31})(:[!-~]{1,200})?")


class Trainer(Protocol):
    """What a trainer gives. Arrays are numpy's; weights and gradients are one flat vector of d values.

    It must be a function of its arguments: no state that outlives a call, no randomness but `rng`, and rows must not
    depend on each other (a gradient of several rows is the mean of theirs). It may be called from any thread.
    """

    @property
    def value_count(self) -> int:
        """d."""

    def init(self, rng: np.random.Generator) -> Floats:
        """First weights, float64[d]: the same for the same generator."""

    def gradient(self, flat: Floats, features: Floats, labels: Labels) -> Floats:
        """What an owner posts of a batch: float64[d], the mean over the rows. The model owner steps against it.

        flat: float64[d], values that float32 holds exactly, read-only; features: float64[rows, feature_count], scaled,
        in [-4, 4]; labels: int64[rows] in [0, class_count). Values beyond the task's clip are cut, not refused.
        """

    def predict(self, flat: Floats, features: Floats) -> Labels:
        """The class of each row, int64[rows]."""


class TaskTrainer(Trainer, Protocol):
    """A trainer of one task's model: it knows its architecture, columns and classes."""

    @property
    def feature_count(self) -> int:
        """Columns of a row."""

    @property
    def class_count(self) -> int:
        """Classes of the task."""

    def describe(self) -> str:
        """The architecture, as the task spells it."""

    def tensors(self) -> Tensors:
        """How the flat vector is divided."""


Factory = Callable[[str, int, int], Trainer]


def _numpy(architecture: str, feature_count: int, class_count: int) -> Model:
    return Model(Architecture.parse(architecture), feature_count, class_count)


#: Whose code this program is, and which needs nobody's leave.
BUILT_IN: dict[str, Callable[[str, int, int], TaskTrainer]] = {"softmax": _numpy, "mlp": _numpy}
#: Of this program too, but only with an extra: the module that has them, and the library that it needs.
EXTRAS = {"torch": ("omnilytics.daemon.training.torch_modules:trainer", "torch")}

_allowed: frozenset[str] = frozenset()


def allow(patterns: Iterable[str]) -> None:
    """From now on this process may load installed trainers with such names (* stands for anything), and no others.

    Built-in ones need no leave. One process is one participant, so this is said once, when it starts.
    """
    global _allowed
    _allowed = frozenset(patterns)
    _installed_trainer.cache_clear()


def trainer_name(architecture: str) -> str:
    """The trainer that an architecture names. Raises ParameterError for what no task may say."""
    match = _ARCHITECTURE.fullmatch(architecture)
    if match is None:
        raise ParameterError(
            f"architecture {architecture[:80]!r} is not of the form NAME or NAME:DETAILS", help="as in mlp:64,32"
        )
    return match[1]


def installed() -> dict[str, str]:
    """Trainers that could be loaded here beside the built-in ones: name and where it comes from."""
    from importlib.metadata import entry_points

    found = {name: "omnilytics" for name, (_, library) in EXTRAS.items() if find_spec(library) is not None}
    for point in entry_points(group=GROUP):
        if point.name not in BUILT_IN and point.name not in EXTRAS:
            found[point.name] = point.dist.name if point.dist is not None else point.value
    return found


def trainer_for(architecture: str, feature_count: int, class_count: int) -> TaskTrainer:
    """The trainer of a task's model.

    Raises ParameterError, in words for the user, for an architecture that its trainer refuses, a trainer that is not
    installed here, and one that this process may not load.
    """
    name = trainer_name(architecture)
    if name in BUILT_IN:
        return BUILT_IN[name](architecture, feature_count, class_count)
    if feature_count < 1:
        raise ParameterError(f"a model needs at least 1 feature, not {feature_count}")
    if class_count < 2:
        raise ParameterError(f"a model needs at least 2 classes, not {class_count}")
    if not any(fnmatchcase(name, pattern) for pattern in _allowed):
        if name not in EXTRAS and name not in installed():
            raise _missing(architecture, name)
        raise ParameterError(
            f"trainer {name!r} is not allowed here: the task names it, but only you can let its code run",
            help=f'under [policy] in config.toml write trainers = ["softmax", "mlp", "{name}"]',
        )
    return _installed_trainer(name, architecture, feature_count, class_count)


def _missing(architecture: str, name: str) -> ParameterError:
    known = ", ".join((*BUILT_IN, *sorted({*EXTRAS, *installed()})))
    return ParameterError(
        f"unknown model {architecture!r}: no trainer {name!r} is installed here; there are {known}",
        help="use softmax or mlp:WIDTH[,WIDTH...] as in mlp:64,32, or install the package that brings the trainer",
    )


@lru_cache(maxsize=8)
def _installed_trainer(name: str, architecture: str, feature_count: int, class_count: int) -> CheckedTrainer:
    factory = _load(architecture, name)
    try:
        trainer = factory(architecture, feature_count, class_count)
        count = trainer.value_count
    except OmniLyticsError:
        raise
    except Exception as error:  # somebody's code: whatever it raises is said in words
        raise ParameterError(
            f"trainer {name!r} fails on {architecture!r}: {type(error).__name__}: {error}",
            help="tell who wrote the trainer",
        ) from error
    if type(count) is not int or not 1 <= count <= MAX_VALUES:
        raise ParameterError(f"trainer {name!r}: {architecture!r} has {count!r} values; need 1 to {MAX_VALUES}")
    return CheckedTrainer(architecture, feature_count, class_count, count, trainer)


def _load(architecture: str, name: str) -> Factory:
    if name in EXTRAS:
        place, library = EXTRAS[name]
        if find_spec(library) is None:
            raise ParameterError(
                f"model {architecture!r} needs the package {library}, which is not installed here",
                help=f"pip install 'omnilytics[{name}]'",
            )
        module, _, attribute = place.partition(":")
        loaded: Any = getattr(__import__(module, fromlist=[attribute]), attribute)
        return loaded  # type: ignore[no-any-return]
    # Imported late, as nobody who trains what is built in needs it.
    from importlib.metadata import entry_points

    points = list(entry_points(group=GROUP, name=name))
    if not points:
        raise _missing(architecture, name)
    if len({point.value for point in points}) > 1:
        raise ParameterError(
            f"more than one installed package brings a trainer {name!r}", help="uninstall all but one of them"
        )
    try:
        found: Any = points[0].load()
    except Exception as error:
        raise ParameterError(
            f"trainer {name!r} cannot be loaded: {type(error).__name__}: {error}",
            help="reinstall the package that brings it",
        ) from error
    return found  # type: ignore[no-any-return]


@dataclass(frozen=True)
class CheckedTrainer:
    """Somebody's trainer, held to the protocol: what goes in cannot be changed, what comes out is checked.

    Its methods raise VectorError where the trainer fails or returns what is not of the right shape and type; the
    error never holds the trainer's own words, which may hold values of rows.
    """

    architecture: str
    feature_count: int
    class_count: int
    value_count: int
    trainer: Trainer = field(repr=False, compare=False)

    def describe(self) -> str:
        """The architecture."""
        return self.architecture

    def __str__(self) -> str:
        return f"{self.architecture} of {self.feature_count} features and {self.class_count} classes"

    def init(self, rng: np.random.Generator) -> Floats:
        """See Trainer."""
        weights: Floats = self._checked("init", (self.value_count,), np.float64, rng)
        return weights

    def gradient(self, flat: Floats, features: Floats, labels: Labels) -> Floats:
        """See Trainer. Raises ParameterError for arguments that do not fit."""
        self._check_rows(flat, features)
        if labels.shape != (len(features),) or len(labels) == 0:
            raise ParameterError(f"{len(features)} rows of features but labels of shape {labels.shape}")
        if labels.min() < 0 or labels.max() >= self.class_count:
            raise ParameterError(f"a label is outside 0..{self.class_count - 1}")
        mean: Floats = self._checked("gradient", (self.value_count,), np.float64, flat, features, labels)
        return mean

    def predict(self, flat: Floats, features: Floats) -> Labels:
        """See Trainer. Raises ParameterError for arguments that do not fit."""
        self._check_rows(flat, features)
        classes: Labels = self._checked("predict", (len(features),), np.int64, flat, features)
        return classes

    def tensors(self) -> Tensors:
        """The trainer's own division where it has one ("tensors"), else one tensor of all values."""
        told: Any = getattr(self.trainer, "tensors", None)
        found: Tensors = told() if told is not None else ()
        whole = sum(int(np.prod(shape)) for _, shape in found) == self.value_count
        return found if found and whole else (("weights", (self.value_count,)),)

    def _check_rows(self, flat: Floats, features: Floats) -> None:
        if flat.shape != (self.value_count,):
            raise ParameterError(f"weights have {flat.size} values, {self} needs {self.value_count}")
        if features.ndim != 2 or features.shape[1] != self.feature_count:
            raise ParameterError(f"features have shape {features.shape}, {self} needs (rows, {self.feature_count})")

    def _checked(self, method: str, shape: tuple[int, ...], dtype: Any, *arguments: Any) -> Any:
        given = [_read_only(value) if isinstance(value, np.ndarray) else value for value in arguments]
        name = trainer_name(self.architecture)
        try:
            found = np.asarray(getattr(self.trainer, method)(*given))
        except OmniLyticsError:
            raise
        except Exception as error:  # noqa: BLE001 (somebody's code; its words may hold values of rows)
            raise VectorError(
                f"trainer {name!r} failed in {method}: {type(error).__name__}",
                help="try the trainer on rows that are no secret; tell who wrote it",
            ) from None
        if found.shape != shape or found.dtype.kind not in ("f" if dtype is np.float64 else "iu"):
            raise VectorError(
                f"trainer {name!r}: {method} returned {found.dtype} of shape {found.shape}, not {dtype.__name__} of "
                f"shape {shape}",
                help="tell who wrote the trainer",
            )
        # A copy: what the trainer keeps and changes later must not change what was checked.
        return np.array(found, dtype=dtype)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view
