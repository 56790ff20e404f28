"""The simulated broker. It promises nothing: messages are lost, late, doubled, out of order, damaged or made up."""

from __future__ import annotations

import random
from collections.abc import Callable

from omnilytics.daemon.broker import Arrived, Broker
from omnilytics.daemon.log import Logger
from omnilytics.peers.messages import MAX_MESSAGE_BYTES
from tests.simulator.life import Faults, Life
from tests.simulator.virtual_time import VirtualLoop


class PostOffice:
    """Everybody's messages and presence."""

    def __init__(self, loop: VirtualLoop, entropy: random.Random, faults: Faults) -> None:
        self._loop = loop
        self._entropy = entropy
        self._faults = faults
        self._clients: dict[bytes, SimulatedBroker] = {}
        self._presence: dict[str, bytes] = {}
        self._recent: list[tuple[str, bytes]] = []
        self.down = False
        # Those behind a partition hear and say nothing to those before it.
        self.cut_off: frozenset[bytes] = frozenset()
        self.on_sent: Callable[[bytes, str, bytes], None] = lambda sender, where, payload: None

    def connect(self, client: SimulatedBroker) -> None:
        """A session begins: its presence is told, everybody's presence is told to it."""
        self._clients[client.me] = client
        self.tell_presence(client.me, b"1")
        for where, payload in self._presence.items():
            self._later(client, where, payload, 0.01)

    def disconnect(self, client: SimulatedBroker, at_once: bool) -> None:
        """A session is over; its will is published when the broker notices."""
        if self._clients.get(client.me) is not client:
            return
        del self._clients[client.me]
        after = 0.0 if at_once else self._entropy.choice((0.0, 0.1, 1.0, 5.0))

        def will() -> None:
            if client.me not in self._clients:
                self.tell_presence(client.me, b"0")

        self._loop.call_later(after, will)

    def drop_all(self) -> None:
        """The broker goes down: every session ends."""
        self.down = True
        for client in list(self._clients.values()):
            client.lose_connection()

    def tell_presence(self, who: bytes, payload: bytes) -> None:
        """A retained message to all."""
        for client in self._clients.values():
            self._presence[client.presence_topic(who)] = payload
            self._later(client, client.presence_topic(who), payload, self._entropy.uniform(0.001, 0.05))

    def publish(self, sender: SimulatedBroker, where: str, payload: bytes) -> None:
        """One message, with whatever may happen to it on the way."""
        self.on_sent(sender.me, where, payload)
        if where == sender.presence_topic(sender.me):
            self.tell_presence(sender.me, payload)
            return
        receiver = bytes.fromhex(where.split("/")[-2])
        client = self._clients.get(receiver)
        if client is None:
            return
        faults, entropy = self._faults, self._entropy
        if (sender.me in self.cut_off) != (receiver in self.cut_off):
            faults.count("message stopped by a partition")
            return
        if faults.strikes("message_drop", entropy):
            return
        delay = entropy.uniform(0.001, 0.03)
        if faults.strikes("message_reorder", entropy):
            delay += entropy.uniform(0.03, 0.5)
        if faults.strikes("message_delay", entropy):
            delay += entropy.expovariate(1 / 4.0)
        if faults.strikes("message_duplicate", entropy):
            self._later(client, where, payload, delay + entropy.expovariate(1 / 2.0))
        if faults.strikes("message_corrupt", entropy):
            payload = self._damaged(payload)
        self._later(client, where, payload, delay)
        if len(self._recent) < 200:
            self._recent.append((where, payload))
        elif faults.strikes("message_injected", entropy):
            self._inject(client)
        if faults.strikes("presence_forged", entropy):
            victim = entropy.choice(list(self._clients))
            self._later(client, client.presence_topic(victim), entropy.choice((b"0", b"1", b"", b"2")), 0.01)

    def _later(self, client: SimulatedBroker, where: str, payload: bytes, delay: float) -> None:
        self._loop.call_later(delay, client.hand_over, where, payload)

    def _damaged(self, payload: bytes) -> bytes:
        entropy = self._entropy
        data = bytearray(payload)
        for _ in range(entropy.randint(1, 4)):
            match entropy.randrange(4):
                case 0 if data:
                    data[entropy.randrange(len(data))] ^= 1 << entropy.randrange(8)
                case 1:
                    del data[entropy.randrange(len(data) + 1) :]
                case 2:
                    data += entropy.randbytes(entropy.choice((1, 16, MAX_MESSAGE_BYTES, 5000)))
                case _:
                    data[:] = entropy.randbytes(entropy.choice((0, 1, 116, 200)))
        return bytes(data)

    def _inject(self, client: SimulatedBroker) -> None:
        """An old message again, under another topic, or no topic of ours at all."""
        where, payload = self._entropy.choice(self._recent)
        parts = where.split("/")
        match self._entropy.randrange(3):
            case 0:
                parts[-2], parts[-1] = client.me.hex(), self._entropy.choice(list(self._clients)).hex()
            case 1:
                parts[self._entropy.randrange(len(parts))] = self._entropy.randbytes(20).hex()
            case _:
                parts[3] = str(self._entropy.randrange(10))
                parts[-2] = client.me.hex()
        self._later(client, "/".join(parts), payload, 0.01)


class SimulatedBroker(Broker):
    """The product's broker adapter with the post office instead of MQTT behind it."""

    def __init__(
        self,
        url: str,
        run: str,
        address: bytes,
        log: Logger,
        on_message: Callable[[Arrived], None],
        on_presence: Callable[[bytes, bool], None],
        *,
        office: PostOffice,
        life: Life,
    ) -> None:
        super().__init__("mqtt://simulated", run, address, log, on_message, on_presence)
        self._office = office
        self._life = life
        self._session_number = 0
        life.on_death.append(lambda: office.disconnect(self, at_once=False))

    @property
    def me(self) -> bytes:
        """Whose session it is."""
        return self._me

    def presence_topic(self, who: bytes) -> str:
        """Where somebody's presence is told."""
        return self._presence_topic(who.hex())

    def lose_connection(self) -> None:
        """The session ends without anybody's doing."""
        self._office.disconnect(self, at_once=True)
        self._outgoing.put_nowait(("", b"", False))

    def hand_over(self, where: str, payload: bytes) -> None:
        """A message reaches the process, where there still is one."""
        if self._life.alive and self.connected.is_set():
            self._arrived(where, payload)

    async def _session(self) -> None:
        self._life.check()
        if self._office.down:
            raise OSError("connection refused")
        self._office.connect(self)
        self.connected.set()
        self._log("broker.connected", "connected to the simulated broker")
        try:
            while True:
                where, payload, _ = await self._outgoing.get()
                self._outgoing.task_done()
                self._life.check()
                if not where:
                    raise OSError("connection lost")
                self._office.publish(self, where, payload)
        finally:
            self._office.disconnect(self, at_once=True)
