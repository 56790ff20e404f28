"""systemd's datagrams, to a socket that a test holds."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from omnilytics.daemon.service_manager import MOST_STATUS_BYTES, ServiceManager


class Listener:
    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def heard(self) -> list[list[str]]:
        found = []
        while True:
            try:
                found.append(self._socket.recv(65536).decode().split("\n"))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notify"


@pytest.fixture
def listener(path: Path) -> Iterator[Listener]:
    opened = Listener(str(path))
    yield opened
    opened.close()


def test_a_life_is_told(path: Path, listener: Listener) -> None:
    manager = ServiceManager.of({"NOTIFY_SOCKET": str(path)})
    manager.report("not ready: waiting for the chain", True)
    manager.ready("ready")
    manager.report("ready", True)
    manager.report("ready: task 1", True)
    manager.stopping()
    assert listener.heard() == [
        ["STATUS=not ready: waiting for the chain"],
        ["READY=1", "STATUS=ready"],
        ["STATUS=ready: task 1"],
        ["STOPPING=1", "STATUS=stopping"],
    ]


def test_the_watchdog_is_fed_only_by_the_living_and_only_where_somebody_counts(path: Path, listener: Listener) -> None:
    manager = ServiceManager.of({"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, pid=7)
    assert manager.watchdog_seconds == 60.0
    manager.report("a", True)
    manager.report("a", True)
    manager.report("a", False)
    assert listener.heard() == [["STATUS=a", "WATCHDOG=1"], ["WATCHDOG=1"]]


@pytest.mark.parametrize("environment", [{"WATCHDOG_PID": "8"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": ""}])
def test_a_watchdog_of_another_process_is_none_of_ours(environment: dict[str, str]) -> None:
    assert ServiceManager.of({"WATCHDOG_USEC": "60000000"} | environment, pid=7).watchdog_seconds == 0.0


def test_an_abstract_socket_is_found() -> None:
    name = f"omnilytics-test-{id(object())}"
    listener = Listener(f"\0{name}")
    ServiceManager.of({"NOTIFY_SOCKET": f"@{name}"}).ready("x")
    assert listener.heard() == [["READY=1", "STATUS=x"]]
    listener.close()


@pytest.mark.parametrize("address", ["", "/nonexistent/socket", "vsock:2:1234", "relative"])
def test_nobody_who_listens_is_nobodys_trouble(address: str) -> None:
    manager = ServiceManager.of({"NOTIFY_SOCKET": address} if address else {})
    manager.ready("x")
    manager.report("y", True)
    manager.stopping()


def test_a_listener_that_does_not_read_holds_nobody_up(path: Path, listener: Listener) -> None:
    manager = ServiceManager.of({"NOTIFY_SOCKET": str(path)})
    for number in range(5000):
        manager.report(str(number), True)
    assert 0 < len(listener.heard()) < 5000


def test_a_status_is_one_line_of_bounded_length(path: Path, listener: Listener) -> None:
    ServiceManager.of({"NOTIFY_SOCKET": str(path)}).ready("a\nREADY=0\n" + "é" * 5000)
    ((ready, status),) = listener.heard()
    assert ready == "READY=1"
    assert status.startswith("STATUS=a READY=0 é")
    assert len(status.encode()) <= MOST_STATUS_BYTES + len("STATUS=")
