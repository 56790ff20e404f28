"""Trainers: which are found, which may be loaded, and what becomes of one that does not keep to the protocol."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnilytics.daemon.policy import Policy, objections, read_policy
from omnilytics.daemon.protection.catalogue import PROTECTIONS
from omnilytics.daemon.protection.envelope import EnvelopeModel, EnvelopeOwner
from omnilytics.daemon.spec import TaskSpec, decode_spec
from omnilytics.daemon.task_design import TaskDesign, Wishes, design_task
from omnilytics.daemon.training import trainers
from omnilytics.daemon.training.data import Dataset, load_digits, split_holdout
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.reference import train_plain
from omnilytics.daemon.training.trainers import CheckedTrainer, allow, trainer_for, trainer_name
from omnilytics.peers.errors import ModelMismatchError, ParameterError, VectorError
from scripts.toolchain import ROOT
from tests.test_policy import NOTHING, offer

PAGE = (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")
SPEC = TaskSpec("hinge:0.001", 64, tuple("0123456789"), 8.0, 64)
ROWS, LABELS = np.ones((3, 4)), np.array([0, 1, 1])


@pytest.fixture(autouse=True)
def nothing_is_allowed() -> Iterator[None]:
    yield
    allow(())


def install(folder: Path, name: str, code: str, **points: str) -> None:
    """A package as pip would leave it: its module, and its entry points."""
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = "".join(f"{point} = {value}\n" for point, value in points.items())
    (info / "entry_points.txt").write_text(f"[{trainers.GROUP}]\n{lines}", encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def hinge(site: Path) -> Path:
    """The example of docs/trainers.md, installed as the page says."""
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "HingeTrainer" in block)
    (point,) = re.findall(r"^hinge = \"(.*)\"$", PAGE, re.MULTILINE)
    install(site, "hinge", code, hinge=point)
    return site


def designed(architecture: str, own: Dataset, **changes: Any) -> TaskDesign:
    wishes: dict[str, Any] = {"protection": "envelope", "group_size": 3, "lane_bits": 16, "batch_size": None} | changes
    return design_task(Wishes(architecture, optimiser=None, clip=None, seed=0, **wishes), own)


def test_the_built_in_trainers_are_the_models_of_numpy_and_need_nobodys_leave() -> None:
    assert trainer_for("mlp:64,32", 64, 10) == Model(Architecture((64, 32)), 64, 10)
    assert trainer_for("softmax", 4, 3) == Model(Architecture(), 4, 3)
    for name in trainers.BUILT_IN:
        assert name in Policy().trainers, "the policy's default is what is built in"
    assert len(trainers.BUILT_IN) == len(Policy().trainers)


def test_the_pages_example_trains(hinge: Path) -> None:
    allow(("hinge",))
    rest, own = split_holdout(load_digits(), 0.2, np.random.default_rng(0))
    design = designed("hinge:0.001", own)
    side = design.spec.side
    assert isinstance(side, EnvelopeOwner) and side.value_count == 65 * 10
    assert decode_spec(design.spec.encode()) == design.spec
    scaled = Dataset(design.scaling.apply(rest.features), rest.labels, rest.classes)
    owners = [scaled.take(np.arange(number, scaled.row_count, 6)) for number in range(6)]
    run = train_plain(
        side,
        design.side,
        owners,
        design.test,
        [[[0, 1, 2], [3, 4, 5]]] * 20,
        lambda number, owner: bytes([number, owner]),
        lambda number, owner: np.arange(number, owners[owner].row_count, 4)[:64],
        design.spec.clip,
    )
    assert run.accuracies[-1] > 0.85, run.accuracies
    assert isinstance(design.side, EnvelopeModel)
    assert design.side.model.tensors() == (("hinge", (65, 10)),)


def test_a_task_never_decides_whose_code_runs(hinge: Path) -> None:
    """Installed is not allowed: the module is not even imported."""
    with pytest.raises(ParameterError, match="trainer 'hinge' is not allowed here") as caught:
        decode_spec(SPEC.encode())
    assert 'trainers = ["softmax", "mlp", "hinge"]' in caught.value.help
    assert "hinge" not in sys.modules
    assert trainers.installed()["hinge"] == "hinge"
    allow(("h*",))
    assert decode_spec(SPEC.encode()).side.value_count == 650
    assert "hinge" in sys.modules
    allow(())
    with pytest.raises(ParameterError, match="not allowed"):
        decode_spec(SPEC.encode())


def test_the_policy_names_the_trainers(hinge: Path) -> None:
    allow(("*",))
    offered = offer(architecture="hinge:0.001")
    assert [found.key for found in objections(Policy(), offered, NOTHING)] == ["trainers"]
    (found,) = objections(Policy(), offered, NOTHING)
    assert found.reason == "task 7 runs the trainer hinge, the policy allows softmax, mlp (trainers)"
    assert list(objections(read_policy({"trainers": ["hinge"]}), offered, NOTHING)) == []
    (found,) = objections(read_policy({"trainers": []}), offer(), NOTHING)
    assert found.reason == "task 7 runs the trainer softmax, the policy allows none (trainers)"


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("linear", "unknown model 'linear': no trainer 'linear' is installed here"),
        ("", "architecture '' is not of the form"),
        ("Mlp:3", "is not of the form"),
        ("hinge:a b", "is not of the form"),
        ("hinge:" + "1" * 201, "is not of the form"),
        ("hinge:\x1b[2J", "is not of the form"),
        ("../x:1", "is not of the form"),
    ],
)
def test_what_is_not_there_or_no_name_is_said_in_words(architecture: str, words: str) -> None:
    allow(("*",))
    with pytest.raises(ParameterError, match=re.escape(words)):
        trainer_for(architecture, 4, 3)


def test_the_trainers_own_refusal_is_passed_on(hinge: Path) -> None:
    allow(("hinge",))
    with pytest.raises(ParameterError, match=r"needs a number, as in hinge:0\.001"):
        trainer_for("hinge:much", 4, 3)
    for features, classes in ((0, 3), (4, 1)):
        with pytest.raises(ParameterError, match="a model needs at least"):
            trainer_for("hinge", features, classes)


@pytest.mark.parametrize("protection", ["perturbed", "secret-head"])
def test_other_protections_refuse_an_installed_trainer_in_words(hinge: Path, protection: str) -> None:
    allow(("hinge",))
    own = Dataset(np.eye(4), np.array([0, 1, 0, 1]), ("a", "b"))
    with pytest.raises(ParameterError, match=r"(perturbed cannot train 'hinge'|unknown feature map 'hinge')"):
        designed("hinge", own, protection=protection, lane_bits=32)
    with pytest.raises(ParameterError):
        PROTECTIONS[protection].owner_side("hinge", 4, 2, False)
    assert "hinge" not in sys.modules, "refused before it is loaded"


def test_two_packages_of_one_name_are_refused_and_none_takes_a_built_in_one(site: Path) -> None:
    install(site, "first", "def make(*of): raise AssertionError", twice="first:make", mlp="first:make")
    install(site, "second", "def make(*of): raise AssertionError", twice="second:make")
    allow(("*",))
    with pytest.raises(ParameterError, match="more than one installed package brings a trainer 'twice'"):
        trainer_for("twice", 4, 3)
    assert isinstance(trainer_for("mlp:3", 4, 3), Model)
    assert "mlp" not in trainers.installed()


BROKEN = """
import numpy as np
class Broken:
    value_count = 6
    def __init__(self, architecture, features, classes):
        self.how = architecture.partition(":")[2]
        if self.how == "raises": raise OSError("no disk")
        if self.how == "size": self.value_count = 6.0
        if self.how == "huge": self.value_count = 2**40
    def init(self, rng): return np.zeros(6)
    def predict(self, flat, features): return np.zeros(len(features))
    def gradient(self, flat, features, labels):
        if self.how == "write": features[0, 0] = 1.0
        if self.how == "tell": raise ValueError(f"the row is {features.tolist()}")
        if self.how == "short": return np.zeros(5)
        if self.how == "texts": return np.array(list("abcdef"))
        if self.how == "none": return None
        self.last = np.ones(6, dtype=np.float32)
        return self.last
"""


@pytest.fixture
def broken(site: Path) -> None:
    install(site, "broken", BROKEN, broken="broken:Broken", absent="broken:Absent")
    allow(("broken", "absent"))


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("broken:raises", "trainer 'broken' fails on 'broken:raises': OSError: no disk"),
        ("broken:size", "has 6.0 values; need 1 to"),
        ("broken:huge", "has 1099511627776 values; need 1 to"),
        ("absent", "trainer 'absent' cannot be loaded: AttributeError"),
    ],
)
def test_a_trainer_that_cannot_be_made_is_said_in_words(broken: None, architecture: str, words: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(words)):
        trainer_for(architecture, 2, 2)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("write", "trainer 'broken' failed in gradient: ValueError"),
        ("tell", "trainer 'broken' failed in gradient: ValueError"),
        ("short", "gradient returned float64 of shape (5,), not float64 of shape (6,)"),
        ("texts", "gradient returned <U1 of shape (6,)"),
        ("none", "gradient returned object of shape ()"),
    ],
)
def test_a_gradient_that_breaks_the_protocol_is_not_posted(broken: None, how: str, words: str) -> None:
    trainer = trainer_for(f"broken:{how}", 4, 2)
    with pytest.raises(VectorError, match=re.escape(words)) as caught:
        trainer.gradient(np.zeros(6), np.full((3, 4), 0.125), LABELS)
    assert "0.125" not in f"{caught.value}{caught.value.help}", "rows are in no error"
    assert caught.value.__cause__ is None


def test_what_the_trainer_keeps_is_not_what_is_posted(broken: None) -> None:
    trainer = trainer_for("broken", 4, 2)
    assert isinstance(trainer, CheckedTrainer)
    found = trainer.gradient(np.zeros(6), ROWS, LABELS)
    trainer.trainer.last[:] = 7.0  # type: ignore[attr-defined]
    assert found.tolist() == [1.0] * 6 and found.dtype == np.float64
    with pytest.raises(VectorError, match="predict returned float64"):
        trainer.predict(np.zeros(6), ROWS)
    assert trainer.tensors() == (("weights", (6,)),)


@pytest.mark.parametrize(
    ("flat", "rows", "labels", "words"),
    [
        (np.zeros(5), ROWS, LABELS, "weights have 5 values, broken of 4 features and 2 classes needs 6"),
        (np.zeros(6), np.ones((3, 5)), LABELS, "features have shape (3, 5)"),
        (np.zeros(6), ROWS, LABELS[:2], "3 rows of features but labels of shape (2,)"),
        (np.zeros(6), ROWS[:0], LABELS[:0], "0 rows of features"),
        (np.zeros(6), ROWS, LABELS + 1, "a label is outside 0..1"),
    ],
)
def test_what_does_not_fit_never_reaches_the_trainer(
    broken: None, flat: Any, rows: Any, labels: Any, words: str
) -> None:
    with pytest.raises(ParameterError, match=re.escape(words)):
        trainer_for("broken", 4, 2).gradient(flat, rows, labels)


def test_a_published_model_of_another_trainer_is_refused(hinge: Path) -> None:
    allow(("hinge",))
    own = Dataset(np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 2, ("a", "b"))
    design = designed("hinge:0.5", own)
    payload = design.side.publish(design.side.begin(), 1, bytes(32))
    assert EnvelopeOwner(trainer_for("hinge:0.5", 4, 2)).read(payload, 1).round == 1
    with pytest.raises(
        ModelMismatchError, match=r"is a hinge:0\.5 of 4 features and 2 classes, the task's is a softmax"
    ):
        EnvelopeOwner(trainer_for("softmax", 4, 2)).read(payload, 1)


def test_names_are_what_stands_before_the_first_colon() -> None:
    assert [trainer_name(text) for text in ("mlp:64,32", "softmax", "torch:cnn:8")] == ["mlp", "softmax", "torch"]
    for name in (*trainers.BUILT_IN, *trainers.EXTRAS):
        assert trainer_name(name) == name
