"""Metrics for Prometheus: the format to the letter, on loopback only, and a file that is never half written."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from omnilytics.daemon.monitor.exporter import MetricsServer, write_whole
from omnilytics.daemon.monitor.panels import describe
from omnilytics.daemon.monitor.prometheus import CONTENT_TYPE, exposition
from omnilytics.peers.errors import PortError
from tests.monitor_logs import RATE, Daemon
from tests.monitor_views import STORY, market_view, view_of, watched

_SAMPLE = re.compile(
    r'omnilytics_[a-z_]+(\{[a-z_]+="(?:[^"\\\n]|\\["\\n])*"(,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*\})? -?[\d.e+-]+'
)


def samples(text: str) -> dict[str, float]:
    """Samples by name and labels; every line is checked against the format."""
    found: dict[str, float] = {}
    known: set[str] = set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert kind in ("gauge", "counter") and name not in known
            assert (kind == "counter") == name.endswith("_total"), name
            known.add(name)
        elif not line.startswith("# HELP "):
            assert _SAMPLE.fullmatch(line), line
            assert line.split("{")[0].split(" ")[0] in known
            series, value = line.rsplit(" ", 1)
            assert series not in found, series
            found[series] = float(value)
    return found


@pytest.fixture(scope="module")
def story() -> dict[str, Any]:
    return market_view(STORY)


def test_the_market_in_numbers(story: dict[str, Any]) -> None:
    found = samples(exposition(story))
    assert found['omnilytics_round{task="1"}'] == 6
    assert found['omnilytics_phase{task="1",phase="ended"}'] == 1
    assert found['omnilytics_money_wei{task="1",kind="paid"}'] == story["tasks"][0]["money"]["paid_wei"]
    assert found['omnilytics_money_conserved{task="1"}'] == 1
    assert found['omnilytics_group_suspected{task="1",group="1"}'] == 1
    assert found['omnilytics_owners{state="done"}'] == 17
    assert found['omnilytics_alerts{code="silent"}'] == 1
    earned = {k: v for k, v in found.items() if k.startswith("omnilytics_owner_earned_wei")}
    assert len(earned) == 18 and max(earned.values()) == 6 * RATE


def test_money_keeps_every_wei() -> None:
    """Not in floating point: 2^53 wei are less than a cent."""
    text = exposition(market_view(STORY))
    assert re.search(r'kind="escrow"\} 208000000000000000$', text, re.M)


def test_an_empty_market_has_metrics() -> None:
    found = samples(exposition(describe(watched([]), 1.0, [])))
    assert found["omnilytics_log_records_total"] == 0 and found['omnilytics_alerts{code="none"}'] == 0


def test_labels_of_strangers_are_escaped() -> None:
    stranger = Daemon("x", 5)
    evil = 'a"} 1\\ \n#'
    line = stranger.line(1, "rpc.error", level="warning", code=evil)
    text = exposition(view_of(watched([(evil, line)])))
    samples(text)
    assert r'code="a\"} 1\\ ?#"' in text
    assert r'name="a\"} 1\\ \n#"' in text


def test_metrics_are_served_on_loopback(story: dict[str, Any]) -> None:
    with MetricsServer(0).serve() as server:
        server.show(exposition(story))
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            assert answer.read().decode() == exposition(story)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/etc/passwd", timeout=10)
        assert caught.value.code == 404
        caught.value.close()
        with pytest.raises(PortError, match=f"port {server.port} of 127.0.0.1 cannot be had"):
            MetricsServer(server.port)
        assert server._server.server_address[0] == "127.0.0.1"
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", server.port), 1):
        pass


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.prom"
    write_whole(path, "old\n")
    with path.open() as reader:
        write_whole(path, "new\n")
        assert reader.read() == "old\n"
    assert path.read_text() == "new\n"
    with pytest.raises(OSError):
        write_whole(tmp_path / "nowhere" / "x", "new\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.prom"]
