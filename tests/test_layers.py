"""The rules of the house that a program can check: who may import what."""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("peers", "daemon")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
# What reaches the network, the disk, the clock or the chain, and the one module that may.
DAEMON_ONLY = {
    "web3": {"daemon/chain.py"},
    "aiohttp": {"daemon/chain.py", "daemon/ui/server.py"},
    "eth_abi": {"daemon/contract_abi.py"},
    "aiomqtt": {"daemon/broker.py"},
    "paho": set[str](),
    "sqlite3": {"daemon/journal.py"},
    "eth_account": {"daemon/keystore.py"},
    "dp_accounting": {"daemon/accounting.py"},
    "sklearn": {"daemon/training/data.py"},
    "torch": {"daemon/training/torch_modules.py"},
    "onnx": {"daemon/onnx_graph.py"},
    "pyarrow": {"daemon/training/parquet.py"},
    "safetensors": {"daemon/model_files.py"},
    "amqtt": set[str](),
    "requests": set[str](),
    "rich": {"daemon/monitor/terminal.py"},
    "http": {"daemon/monitor/exporter.py"},
}
PEERS_FORBIDDEN = {
    "socket", "asyncio", "time", "datetime", "os", "pathlib", "sqlite3", "random", "secrets", "threading",
    "subprocess", "logging", "io", "urllib", "http", "web3", "aiohttp", "aiomqtt", "click", "eth_account",
}  # fmt: skip
MOST_LINES = 500


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path, top_level_only: bool = False) -> Iterator[str]:
    """The dotted names of the modules that a file imports: what stands after import, or from."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            assert node.module is not None
            yield node.module
            # "from omnilytics.peers import owner_round" imports a module too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(library: str, room: str) -> set[str]:
    return {
        name_of(path)
        for path in MODULES
        if name_of(path).startswith(room) and any(name.split(".")[0] == library for name in imports(path))
    }


@pytest.mark.parametrize("path", [p for p in MODULES if p.is_relative_to(ROOT / "peers")], ids=name_of)
def test_peers_are_pure(path: Path) -> None:
    libraries = {name.split(".")[0] for name in imports(path)}
    assert not libraries & PEERS_FORBIDDEN
    assert not any(name.startswith("omnilytics.daemon") for name in imports(path))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"open", "print", "input", "eval", "exec", "__import__"}


@pytest.mark.parametrize("library", sorted(DAEMON_ONLY))
def test_each_library_that_reaches_out_has_one_module(library: str) -> None:
    assert importers(library, "daemon") == DAEMON_ONLY[library]
    assert importers(library, "peers") == set()


def test_click_stays_in_the_command_line() -> None:
    found = importers("click", "daemon")
    assert found
    assert {name for name in found if name != "daemon/cli.py" and not name.startswith("daemon/commands/")} == set()


def test_only_the_commands_know_the_command_line() -> None:
    for path in MODULES:
        if not name_of(path).startswith(("daemon/commands/", "daemon/cli.py")):
            assert not any("daemon.commands" in name or "daemon.cli" in name for name in imports(path)), name_of(path)


def test_the_product_knows_neither_its_tests_nor_its_launchers() -> None:
    for path in MODULES:
        for name in imports(path):
            assert name.split(".")[0] not in ("tests", "scripts"), f"{name_of(path)} imports {name}"
            assert "adversar" not in name


def test_nothing_imports_in_circles() -> None:
    names = {f"omnilytics.{name_of(path)[:-3].replace('/', '.').removesuffix('.__init__')}": path for path in MODULES}
    edges = {
        name: {wanted for wanted in imports(path) if wanted in names and wanted != name} for name, path in names.items()
    }
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in finished:
            for wanted in sorted(edges[name]):
                visit(wanted, (*trail, name))
            finished.add(name)

    for name in names:
        visit(name, ())
    assert len(finished) > 30


def test_money_is_written_in_one_way() -> None:
    """Elsewhere nobody divides by the wei of an ether."""
    for path in [*MODULES, *sorted((ROOT / "scripts" / "launcher").glob("*.py"))]:
        if name_of(path) != "daemon/amounts.py":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(/|divmod\(.*)\s*(10 ?\*\* ?18|1e18)", text), name_of(path)


def test_modules_are_named_after_what_they_are() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "types", "manager"}
    assert not [name_of(path) for path in MODULES if path.stem in vague]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is_for_and_fits_on_some_pages(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{name_of(path)} has no docstring"
    # About 500; a module that outgrows this by a tenth wants a second room.
    assert len(text.splitlines()) <= MOST_LINES * 1.3, name_of(path)


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    """`omnilytics --help` must not wait for web3 and scikit-learn."""
    heavy = {"web3", "sklearn", "numpy", "aiohttp", "aiomqtt", "dp_accounting"}
    heavy |= {"torch", "onnx", "pyarrow", "safetensors"}
    seen: set[str] = set()
    waiting = [ROOT / "daemon" / "cli.py"]
    while waiting:
        path = waiting.pop()
        for name in imports(path, top_level_only=True):
            assert name.split(".")[0] not in heavy, f"{name_of(path)} imports {name} at once"
            inner = ROOT / (name.removeprefix("omnilytics.").replace(".", "/") + ".py")
            if name.startswith("omnilytics.") and inner.is_file() and name not in seen:
                seen.add(name)
                waiting.append(inner)
    assert "omnilytics.daemon.commands.owner" in seen


def test_standard_library_names_are_not_taken() -> None:
    assert not {path.stem for path in MODULES if path.parent.name in ROOMS} & (sys.stdlib_module_names - {"errors"})


def test_events_and_functions_that_the_daemon_names_are_the_contracts() -> None:
    abi = json.loads((ROOT / "contracts" / "artifacts" / "Market.json").read_text(encoding="utf-8"))["abi"]
    events = {item["name"] for item in abi if item["type"] == "event"}
    functions = {item["name"]: len(item["inputs"]) for item in abi if item["type"] == "function"}
    errors = {item["name"] for item in abi if item["type"] == "error"}
    named_events: set[str] = set()
    named_views: set[str] = set()
    for path in (ROOT / "daemon").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            if node.func.attr in ("_logs", "round_events", "events_in"):
                named_events |= set(texts)
            elif node.func.attr == "_view":
                (view,) = texts
                named_views.add(view)
                assert functions[view] == len(node.args) - 1, view
    assert named_events <= events
    assert {"RoundOpened", "TaskCreated", "Posted", "KrumSelected"} <= named_events
    assert len(named_views) >= 8
    from omnilytics.daemon import chain

    assert set(chain._HELP) <= errors


def test_accounting_is_loaded_only_by_who_adds_noise() -> None:
    """dp-accounting is an extra: without it everything else runs, and nobody waits for it."""
    for path in MODULES:
        assert not any(name.split(".")[0] == "dp_accounting" for name in imports(path, top_level_only=True))
