"""A page in a headless Chromium that a test looks at and clicks on, over the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from scripts.browser import browser_arguments

# Long enough for a machine with better things to do: a daemon that starts may be what is waited for.
SECONDS = 180


class Tab:
    """One page."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        # What the page's own console said: errors of scripts, and of its content policy.
        self.console: list[str] = []

    async def order(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        async with asyncio.timeout(SECONDS):
            while True:
                said = json.loads(await self._socket.receive_str())
                if said.get("method") == "Log.entryAdded":
                    self.console.append(said["params"]["entry"]["text"])
                if said.get("method") == "Runtime.exceptionThrown":
                    self.console.append(json.dumps(said["params"]["exceptionDetails"]))
                if said.get("id") == self._number:
                    assert "error" not in said, said
                    result: dict[str, Any] = said["result"]
                    return result

    async def evaluate(self, expression: str) -> Any:
        """What an expression is in the page, promises awaited."""
        told = await self.order("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def go(self, address: str) -> None:
        """Opens an address."""
        await self.order("Page.navigate", url=address)

    async def until(self, expression: str) -> Any:
        """Waits until an expression is true in the page; its value."""
        async with asyncio.timeout(SECONDS):
            while not (value := await self.evaluate(expression)):  # noqa: ASYNC110 (a page rings no bell)
                await asyncio.sleep(0.05)
        return value

    async def click(self, selector: str) -> None:
        """A real click with the mouse in the middle of an element, which is scrolled to first."""
        place = await self.until(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.order("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    async def text(self, selector: str = "body") -> str:
        """What a reader sees of an element."""
        return str(await self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    async def picture(self, path: Path) -> None:
        """Writes a PNG of the whole page."""
        told = await self.order("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))

    async def size(self, width: int, height: int, dark: bool = False) -> None:
        """A window of so many CSS pixels, as narrow as one likes."""
        await self.order(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.order("Emulation.setEmulatedMedia", features=scheme)


@contextlib.asynccontextmanager
async def open_tab(browser: str) -> AsyncIterator[Tab]:
    """A fresh browser with one empty page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *browser_arguments(browser, profile),
            "--remote-debugging-port=0",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port = await _port(Path(profile) / "DevToolsActivePort", process)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    pages = [page for page in await answer.json() if page["type"] == "page"]
                async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    tab = Tab(socket)
                    for domain in ("Page", "Runtime", "Log"):
                        await tab.order(f"{domain}.enable")
                    yield tab
        finally:
            process.terminate()
            await process.wait()


async def _port(file: Path, process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(SECONDS):
        while True:
            assert process.returncode is None, "the browser has ended"
            lines = file.read_text().splitlines() if file.exists() else []
            if len(lines) >= 2:
                return int(lines[0])
            await asyncio.sleep(0.05)
