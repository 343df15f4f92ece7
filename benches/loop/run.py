"""What an event loop costs: plait's beside those of asyncio, uvloop and rloop.

    make bench                 measure, store result.json, render README.md here
    make bench QUICK=1         a short run that only prints its table
    run.py --render            render again from the stored result

For whom: somebody who asks what running their asyncio program on plait would save, and us, who must not make it slower.
Callbacks, timers, tasks, threads that hand in calls; then servers that send back what they get, written as protocols, as
streams and with `sock_*`.

Method: every peer runs once in each round, in a process of its own, and the order is rotated from round to round, so
that a slow phase of the machine hits all. What is measured is the processor time of the peer's process for one operation,
user and system: a server that waits for its client costs nothing meanwhile, so the speed of the client, which is the
same for all, says nothing. Each case is run several times in a row and the least counts, as disturbances only add. A cell
shows the median of the rounds in nanoseconds, and their range. Peers that are not installed are left out.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started from anywhere

from benches._rounds import PairedRounds, Peer

AGAIN = 7
"""So many times each case is run in a row."""


@dataclass
class Loops(Peer):
    module: str


PEERS = {
    "plait": Loops("plait", package="plait", ours=True),
    "asyncio": Loops("asyncio"),
    "uvloop": Loops("uvloop", package="uvloop"),
    "rloop": Loops("rloop", package="rloop"),
}
Case = Callable[[Any, int], int | None]
CASES: dict[str, tuple[str, Case, int]] = {}
"""By name: what it is, what does so many of it (and says how long that took, if not as long as itself), and how many."""


def case(name: str, what: str, count: int) -> Callable[[Case], Case]:
    def add(run: Case) -> Case:
        CASES[name] = (what, run, count)
        return run

    return add


def nothing(*_: object) -> None:
    pass


@case("call_soon", "`call_soon`, many in a turn", 10_000)
def _(loop: Any, count: int) -> None:
    for _ in range(count):
        loop.call_soon(nothing, 1)
    loop.call_soon(loop.stop)
    loop.run_forever()


@case("turn", "`call_soon`, one in a turn", 10_000)
def _(loop: Any, count: int) -> None:
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            loop.stop()

    loop.call_soon(step)
    loop.run_forever()


@case("timers", "`call_later`, soon due", 10_000)
def _(loop: Any, count: int) -> None:
    left = count

    def due() -> None:
        nonlocal left
        left -= 1
        if not left:
            loop.stop()

    for number in range(count):
        loop.call_later(number % 100 * 1e-5, due)
    loop.run_forever()


@case("timeouts", "`call_later` and `cancel()`, 1000 pending", 10_000)
def _(loop: Any, count: int) -> None:
    pending = deque(loop.call_later(60 + number % 97, nothing) for number in range(1000))
    for number in range(count):
        pending.append(loop.call_later(60 + number % 97, nothing))
        pending.popleft().cancel()
    for handle in pending:
        handle.cancel()
    loop.call_soon(loop.stop)
    loop.run_forever()


@case("switch", "`await sleep(0)`, 10 tasks", 10_000)
def _(loop: Any, count: int) -> None:
    async def task() -> None:
        for _ in range(count // 10):
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(task() for _ in range(10)))

    loop.run_until_complete(main())


@case("tasks", "tasks that are made and awaited", 2_000)
def _(loop: Any, count: int) -> None:
    async def task() -> None:
        pass

    async def main() -> None:
        await asyncio.gather(*(loop.create_task(task()) for _ in range(count)))

    loop.run_until_complete(main())


@case("threads", "`call_soon_threadsafe`, many", 5_000)
def _(loop: Any, count: int) -> None:
    left = count

    def call() -> None:
        nonlocal left
        left -= 1
        if not left:
            loop.stop()

    def give() -> None:
        for _ in range(count):
            loop.call_soon_threadsafe(call)

    thread = threading.Thread(target=give)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


# What sends: rounds of one message on each of the connections, whose answers are read.
CLIENT = """
import socket, sys
family, address, size, connections, rounds = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
kind = socket.SOCK_DGRAM if family == "udp" else socket.SOCK_STREAM
socks = [socket.socket(socket.AF_UNIX if family == "unix" else socket.AF_INET, kind) for _ in range(connections)]
for sock in socks:
    sock.connect(address if family == "unix" else ("127.0.0.1", int(address)))
data, buffer = bytes(size), bytearray(size)
for number in range(1 + rounds):
    if number == 1:  # all are connected and served
        print(flush=True)
        sys.stdin.readline()
    for sock in socks:
        sock.sendall(data)
    for sock in socks:
        left = size
        while left:
            left -= sock.recv_into(buffer, left)
"""


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 18):
        writer.write(data)
        await writer.drain()
    writer.close()


async def echo_socks(loop: Any, listener: socket.socket) -> None:
    async def serve(connection: socket.socket) -> None:
        with connection:
            while data := await loop.sock_recv(connection, 1 << 18):
                await loop.sock_sendall(connection, data)

    tasks = []
    try:
        while True:
            connection, _ = await loop.sock_accept(listener)
            tasks.append(loop.create_task(serve(connection)))
    finally:
        await asyncio.gather(*tasks)


async def loaded(family: str, address: object, size: int, connections: int, count: int) -> int:
    """Run the client, whose server is in this loop: the process's time from the first message of each connection to the end."""
    command = [sys.executable, "-I", "-S", "-c", CLIENT, family, str(address)]
    command += [str(size), str(connections), str(max(count // connections, 1))]
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def run() -> None:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdout.readline()
            began = time.process_time_ns()
            client.stdin.write(b"go\n")
            client.stdin.close()
            status = client.wait()
            loop.call_soon_threadsafe(done.set_result, (status, time.process_time_ns() - began))

    thread = threading.Thread(target=run)
    thread.start()
    status, spent = await done
    thread.join()
    if status:
        raise RuntimeError(f"the client ended with {status}")
    return int(spent)


Serve = Callable[[Any, socket.socket], Awaitable[Any]]


def network(name: str, what: str, serve: Serve, size: int, connections: int, count: int) -> None:
    def run(loop: Any, count: int) -> int:
        async def main() -> int:
            listener = socket.socket()
            listener.bind(("127.0.0.1", 0))
            listener.listen(256)
            listener.setblocking(False)
            port = listener.getsockname()[1]
            server = await serve(loop, listener)
            spent = await loaded("tcp", port, size, connections, count)
            if isinstance(server, asyncio.Task):
                server.cancel()
                await asyncio.wait([server])
                listener.close()
            else:
                server.close()
            return spent

        return int(loop.run_until_complete(main()))

    CASES[name] = (what, run, count)


async def by_protocol(loop: Any, listener: socket.socket) -> Any:
    return await loop.create_server(Echo, sock=listener)


async def by_streams(_loop: Any, listener: socket.socket) -> Any:
    return await asyncio.start_server(echo_stream, sock=listener)


async def by_socks(loop: Any, listener: socket.socket) -> Any:
    return loop.create_task(echo_socks(loop, listener))


network("protocol", "TCP echo of 1 KiB, protocol, 16 connections", by_protocol, 1024, 16, 20_000)
network("protocol_large", "TCP echo of 100 KiB, protocol", by_protocol, 102_400, 4, 2_000)
network("streams", "TCP echo of 1 KiB, streams", by_streams, 1024, 16, 20_000)
network("socks", "TCP echo of 1 KiB, `sock_*`", by_socks, 1024, 16, 20_000)


@case("udp", "UDP echo of 1 KiB, 16 peers", 20_000)
def _(loop: Any, count: int) -> int:
    async def main() -> int:
        transport, _ = await loop.create_datagram_endpoint(EchoDatagrams, local_addr=("127.0.0.1", 0))
        spent = await loaded("udp", transport.get_extra_info("sockname")[1], 1024, 16, count)
        transport.close()
        return spent

    return int(loop.run_until_complete(main()))


def least(run: Case, loop: Any, count: int) -> float:
    """Nanoseconds of this process's time for each of `count` operations, at best."""
    spent = []
    for _ in range(AGAIN):
        began = time.process_time_ns()
        took = run(loop, count)
        spent.append((time.process_time_ns() - began if took is None else took) / count)
    return min(spent)


def cell(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


class LoopRounds(PairedRounds[Loops]):
    """Its table has a line for each case, with the ratio to the best of the others within each round."""

    script = Path(__file__).resolve()
    summary = "Measure event loops side by side."
    peers = PEERS
    rounds = 5
    quick_rounds = 1

    def measure(self, peer: Loops, quick: bool) -> dict[str, float]:
        """All cases of one peer, once; in the process that is asked for it."""
        loop = importlib.import_module(peer.module).new_event_loop()
        asyncio.set_event_loop(loop)
        share = 0.2 if quick else 1.0
        counts = {name: max(int(count * share), 16) for name, (_what, _run, count) in CASES.items()}
        return {name: least(CASES[name][1], loop, count) for name, count in counts.items()}

    def table(self, result: dict[str, Any]) -> str:
        rounds = result["rounds"]
        peers = [peer for peer in PEERS if peer in rounds[0]]
        lines = [
            "| CPU ns for one | " + " | ".join(peers) + " | plait / best other |",
            "|---|" + "---:|" * (len(peers) + 1),
        ]
        for name, (what, _run, _count) in CASES.items():
            ratios = [
                each["plait"][name] / min(each[peer][name] for peer in peers if peer != "plait") for each in rounds
            ]
            cells = [cell([each[peer][name] for each in rounds]) for peer in peers]
            lines.append(f"| {what} | {' | '.join(cells)} | {statistics.median(ratios):.2f} |")
        return "\n".join(lines)

    def page(self, result: dict[str, Any]) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        return f"""# What an event loop costs

Made by `benches/loop/run.py`, whose first lines say how it is measured; the rounds are in `result.json`.

CPython {result["python"]}, {result["machine"]}, load {result["load"]} at the end; {versions}. {len(result["rounds"])} rounds:
median and range of the processor time, in nanoseconds. The last column is the median of the rounds' own ratios: below 1
plait costs less.

{self.table(result)}

Most of an echo is the kernel's: two system calls for each message, and a share in the one that waits. Streams are code of
asyncio itself for the greater part.
"""


if __name__ == "__main__":
    LoopRounds().main()
