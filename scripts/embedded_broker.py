"""amqtt's broker with four of its faults mended (0.12.1), imported only where it is used: it takes half a second.

- A client that comes back with its own name while its old connection still stands must take over from it. amqtt
  keeps the old one, whose last will then, when it ends at last, says "offline" over the new one's "online".
- Whoever connects is sent the retained messages of all filters that anybody has subscribed to, not only its own.
- A message that is passed on while somebody subscribes is lost: amqtt goes through its subscriptions, waits in
  between, and stops when they have become more.
- A connection that ends before it says CONNECT is never closed on our side; since Python 3.12 shutdown waits for it.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from amqtt.broker import Broker
from amqtt.session import Session

TAKE_OVER_PATIENCE = 2.0
SHUTDOWN_PATIENCE = 1.0


class Subscriptions(dict[str, list[tuple[Session, int]]]):
    """Filters and who subscribed to them; who goes through them sees them as they were at the start."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().__iter__()))

    def items(self) -> Any:
        return [(name, list(who)) for name, who in super().items()]


class EmbeddedBroker(Broker):  # type: ignore[misc]  # amqtt is untyped
    """Started, asked for its port, shut down."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._writers: set[asyncio.StreamWriter] = set()
        self._subscriptions = Subscriptions()

    @property
    def port(self) -> int:
        """The port that the system chose for port 0 of the listener "default"."""
        server = self._servers["default"].instance
        assert isinstance(server, asyncio.Server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        self._writers.add(writer)
        try:
            await super().stream_connected(reader, writer, listener_name)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def shutdown(self) -> None:
        # A client that does not read may keep its connection from closing in order.
        late = asyncio.get_running_loop().call_later(SHUTDOWN_PATIENCE, self._abort_connections)
        try:
            await super().shutdown()
        finally:
            late.cancel()

    def _abort_connections(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _delete_session(self, client_id: str) -> None:
        session, handler = self._sessions.get(client_id, (None, None))
        if session is not None and handler is not None and session.transitions.is_connected():
            # Ends the old connection's own loop, which publishes its will and closes its socket.
            await handler.handle_connection_closed()
            deadline = time.monotonic() + TAKE_OVER_PATIENCE
            while session.transitions.is_connected() and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        await super()._delete_session(client_id)

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        subscribers = self._subscriptions.get(subscription[0], [])
        if any(subscriber is session for subscriber, _ in subscribers):
            await super()._publish_retained_messages_for_subscription(subscription, session)
