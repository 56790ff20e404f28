"""Hands the metrics out: over HTTP on loopback, or as a file that a node exporter picks up."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from omnilytics.daemon.monitor.prometheus import CONTENT_TYPE
from omnilytics.peers.errors import PortError


class MetricsServer:
    """GET /metrics on 127.0.0.1. The text is set by whoever reads the logs; requests never touch the market."""

    def __init__(self, port: int) -> None:
        """Raises PortError where the port cannot be had. Port 0 is any that is free."""
        self._text = b"# no logs read yet\n"
        outer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                found = self.path.split("?")[0] in ("/metrics", "/")
                body = outer._text if found else b"only /metrics is here\n"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Requests are not worth a line on the terminal that shows the market."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            raise PortError(f"port {port} of 127.0.0.1 cannot be had: {error}") from error
        self._server.daemon_threads = True

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def show(self, text: str) -> None:
        """What the next request gets."""
        self._text = text.encode()

    @contextlib.contextmanager
    def serve(self) -> Iterator[MetricsServer]:
        """Answers requests until the block is left."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def write_whole(path: Path, text: str) -> None:
    """Replaces a file by one rename: a reader sees the old text or the new one, never half."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
