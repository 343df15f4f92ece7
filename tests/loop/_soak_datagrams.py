"""Datagrams in the soak of the event loop: whoever asks compares what comes back."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from tests.loop._soak_sides import HEAD, TO_SERVER, bind, pattern

if TYPE_CHECKING:
    from tests.loop._soak import Place


class Asker:
    """Sends datagrams to the loops of all threads, by a transport or by `sock_*`."""

    def __init__(self, place: Place, choice: random.Random, number: int) -> None:
        self.place, self.choice, self.number = place, choice, number

    async def ask(self) -> None:
        """Sends datagrams, and compares what comes back. Each waits for its answer, so that none finds no room."""
        for turn in range(4):
            place = self.choice.choice(self.place.world.places)
            family = self.choice.choice(list(place.datagram_addresses))
            address = place.datagram_addresses[family]
            ours = (
                ("127.0.0.1", 0) if family == socket.AF_INET else f"{self.place.folder.name}/asks-{self.number}-{turn}"
            )
            sock = bind(family, ours)
            if self.choice.random() < 0.5:
                await self.ask_by_transport(sock, address)
            else:
                await self.ask_by_sock(sock, address)

    def question(self) -> bytes:
        number = self.choice.randrange(2**32)
        return HEAD.pack(number, 0, 0) + pattern(number, TO_SERVER, 0, self.choice.choice((0, 1, 100, 1400)))

    async def ask_by_transport(self, sock: socket.socket, address: Any) -> None:
        answers: asyncio.Queue[bytes] = asyncio.Queue()
        transport, _ = await self.place.loop.create_datagram_endpoint(lambda: Answers(answers), sock=sock)
        try:
            for _ in range(5):
                asked = self.question()
                transport.sendto(asked, address)
                await self.compare(asked, answers.get())
        finally:
            transport.abort() if self.choice.random() < 0.5 else transport.close()

    async def ask_by_sock(self, sock: socket.socket, address: Any) -> None:
        async def answer() -> bytes:
            if self.choice.random() < 0.5:
                return (await self.place.loop.sock_recvfrom(sock, 2000))[0]
            memory = bytearray(2000)
            count, _ = await self.place.loop.sock_recvfrom_into(sock, memory)
            return bytes(memory[:count])

        with sock:
            for _ in range(5):
                asked = self.question()
                await self.place.loop.sock_sendto(sock, asked, address)
                await self.compare(asked, answer())

    async def compare(self, asked: bytes, answer: Coroutine[Any, Any, bytes]) -> None:
        got = await answer
        if got != asked:
            self.place.world.wrong.append(f"another datagram came back: {got[:30]!r} for {asked[:30]!r}")
        self.place.world.count("datagrams")


class Echo(asyncio.DatagramProtocol):
    """Sends datagrams back."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)

    def error_received(self, exc: Exception) -> None:
        """Who asked has left already."""


class Answers(asyncio.DatagramProtocol):
    """Keeps what comes back."""

    def __init__(self, answers: asyncio.Queue[bytes]) -> None:
        self.answers = answers

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.answers.put_nowait(data)
