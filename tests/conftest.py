"""What tests of several modules share: a real chain and a real broker, each test's own."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

ROOT = Path(__file__).resolve().parent.parent
# The launchers are no part of the installed package; tests import them as scripts.*, their own helpers as tests.*.
sys.path.insert(0, str(ROOT))

from scripts.broker_process import Broker, start_broker  # noqa: E402
from scripts.chain_process import Chain, start_anvil  # noqa: E402


@pytest_asyncio.fixture
async def anvil(tmp_path: Path) -> AsyncIterator[Chain]:
    """A fresh chain that mines at every transaction and otherwise stands still: `await anvil.advance(60)`."""
    async with start_anvil(tmp_path / "anvil", block_time=0, accounts=40) as chain:
        yield chain


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """The embedded broker, in the test's own event loop."""
    async with start_broker("embedded", tmp_path / "broker") as running:
        yield running
