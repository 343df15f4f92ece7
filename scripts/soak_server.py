"""Soak: servers on plait's loop under load for minutes, with threads that compute, new workers, and clients that are killed.

    python scripts/soak_server.py --minutes 30 [--seed N]

Two servers have the same FastAPI application, and in each of its processes a thread that computes all the time. uvicorn runs
by itself and stays the same process; gunicorn with `plait.integrations.uvicorn.PlaitWorker` gets new workers by SIGHUP. Each
round is for one of them. `wrk` (Debian's package) asks for small answers, bodies, streams and functions in threads; a client of
ours compares what comes back; and processes that have connections in all states, half a request among them, are killed with
SIGKILL, as is another `wrk`.

Wrong is:

- an error or a warning in the log of a server;
- a request that failed, but for those that met a reload, and those of clients that were killed; a wrong answer at any time;
- a worker that stays after a reload;
- descriptors that uvicorn's or gunicorn's own process has after a round and did not have before the first, and connections that
  the loop still counts as open;
- memory that grows: of what is measured after the rounds, the median of the last third of the time is above that of the first
  third by more than 5 % and 4 MiB. The first two minutes, or a tenth of the time, are left out. Workers are as old as
  the last reload, so it is the processes that stay which are measured.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PATIENCE = 60.0
ROUND = 10  # seconds
CONNECTIONS = 40
TROUBLE = ("Traceback", "ERROR", "CRITICAL", "Exception", "never retrieved", "never awaited", "unclosed", "Warning")

APPLICATION = """
import asyncio, json, threading
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.requests import ClientDisconnect

app = FastAPI(default_response_class=PlainTextResponse)

def compute():
    while True:
        sum(range(10_000))

threading.Thread(target=compute, daemon=True).start()

@app.get("/echo/{word}")
async def echo(word: str):
    await asyncio.sleep(0.001)
    return word

@app.get("/thread/{word}")
def in_a_thread(word: str):
    return word

@app.post("/size")
async def size(request: Request):
    try:
        body = await request.body()
    except ClientDisconnect:
        return ""
    return f"{len(body)} {sum(body)}"

@app.get("/stream")
async def stream():
    async def parts():
        for number in range(30):
            yield str(number) * 1000
            await asyncio.sleep(0)
    return StreamingResponse(parts())

@app.get("/statistics")
async def statistics():
    loop = asyncio.get_running_loop()
    return PlainTextResponse(json.dumps(loop.statistics()))
"""

LOAD = """
local count = 0
request = function()
    count = count + 1
    local kind = count % 8
    if kind == 3 then
        return wrk.format("POST", "/size", nil, string.rep("x", count % 50000))
    elseif kind == 5 then
        return wrk.format("GET", "/thread/" .. count)
    elseif kind == 7 then
        return wrk.format("GET", "/stream")
    end
    return wrk.format("GET", "/echo/" .. count)
end
"""


class Server:
    """A server that runs as a program of its own."""

    def __init__(self, name: str, folder: Path, command: list[str]) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = int(sock.getsockname()[1])
        self.name, self.log = name, folder / f"{name}.log"
        words = [word.replace("PORT", str(self.port)) for word in command]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for(self.answers, f"{name} to answer")
        self.files = self.open_files()

    def answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} has ended:\n{self.log.read_text()}")
        try:
            return self.get("/echo/here") == b"here"
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def children(self) -> set[int]:
        pid = self.process.pid
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident_mib(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 2**20

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def trouble(self) -> list[str]:
        lines = self.log.read_text(errors="replace").splitlines()
        return [f"{self.name}: {line}" for line in lines if any(word in line for word in TROUBLE)][:5]


def wait_for(good: Callable[[], bool], what: str) -> None:
    """Wait until `good()`, for something that takes seconds."""
    deadline = time.monotonic() + PATIENCE
    while not good():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.1)


def wrk(port: int, folder: Path, seconds: int) -> subprocess.Popen[str]:
    command = [
        "wrk",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "--timeout",
        f"{PATIENCE:g}s",
        "-s",
        str(folder / "load.lua"),
    ]
    return subprocess.Popen(
        [*command, f"http://127.0.0.1:{port}/"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def failures(said: str) -> int:
    """How many requests `wrk` tells of that failed."""
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    return sum(int(count) for found in (errors, refused) if found for count in found.groups())


def be_rude(port: int, seed: int) -> None:
    """Open connections in all states and go on until somebody kills this process."""
    random_ = random.Random(seed)
    kept: collections.deque[socket.socket] = collections.deque(maxlen=30)
    sent = (
        b"",
        b"GET /ec",
        b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n" * 20,
        b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 5000,
        b"GET /thread/x HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    while True:
        with contextlib.suppress(OSError):  # the server may be about to be replaced
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(random_.choice(sent))
            if random_.random() < 0.2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends with a reset
                sock.close()
            kept.append(sock)
        time.sleep(random_.uniform(0.0, 0.05))


class Soak:
    """The servers, and the book of what happened."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.book: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        # On a busy machine a client may be silent for longer than servers usually keep a connection.
        loop = ["--loop", "plait:new_event_loop", "--no-access-log", "--port", "PORT", "--timeout-keep-alive", "300"]
        worker = [
            "-k",
            "plait.integrations.uvicorn.PlaitWorker",
            "-w",
            "2",
            "-b",
            "127.0.0.1:PORT",
            "--no-control-socket",
        ]
        worker += ["--keep-alive", "300"]
        self.uvicorn = Server("uvicorn", folder, ["uvicorn", "app:app", *loop])
        self.gunicorn = Server("gunicorn", folder, ["gunicorn", *worker, "app:app"])

    @contextlib.contextmanager
    def rude_clients(self, server: Server) -> Iterator[None]:
        """Clients that are killed at random, and replaced, while the block runs."""
        ended = threading.Event()
        seeds = [self.random.randrange(1 << 30) for _ in range(2)]

        def keep_killing(seed: int) -> None:
            random_ = random.Random(seed)
            while not ended.is_set():
                kind = random_.random()
                if kind < 0.3:
                    client: subprocess.Popen[str] = wrk(server.port, self.folder, 60)
                else:
                    script = [
                        sys.executable,
                        __file__,
                        "--rude",
                        str(server.port),
                        "--seed",
                        str(random_.randrange(1 << 30)),
                    ]
                    client = subprocess.Popen(script, stdout=subprocess.PIPE, text=True)
                ended.wait(random_.uniform(0.3, 2.0))
                client.kill()
                client.communicate()
                self.book["clients killed"] += 1

        threads = [threading.Thread(target=keep_killing, args=(seed,)) for seed in seeds]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    @contextlib.contextmanager
    def compared(self, server: Server, may_fail: bool) -> Iterator[None]:
        """A client that compares what comes back, while the block runs."""
        ended = threading.Event()

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
            number = 0
            while not ended.is_set():
                number += 1
                word = f"{number}-{os.urandom(4).hex()}"
                try:
                    if number % 3:
                        connection.request("GET", f"/{'echo' if number % 2 else 'thread'}/{word}")
                        wanted = word
                    else:
                        body = os.urandom(number % 300 * 500)
                        connection.request("POST", "/size", body)
                        wanted = f"{len(body)} {sum(body)}"
                    got = connection.getresponse().read().decode()
                except (OSError, http.client.HTTPException) as error:
                    connection.close()
                    self.failed(server, may_fail, f"{type(error).__name__}: {error}")
                    continue
                if got != wanted:
                    self.wrong.append(f"{server.name} said {got[:80]!r} instead of {wanted!r}")
                self.book["answers compared"] += 1
            connection.close()

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def failed(self, server: Server, may: bool, what: str, count: int = 1) -> None:
        if may:
            self.book["failed in reloads"] += count
        else:
            self.wrong.append(f"{server.name}, without a reload: {what}")

    def round(self, server: Server, reloads: bool) -> None:
        before = server.children()
        with self.rude_clients(server), self.compared(server, reloads):
            load = wrk(server.port, self.folder, ROUND)
            if reloads:
                time.sleep(self.random.uniform(1.0, ROUND / 2))
                server.process.send_signal(signal.SIGHUP)
            said, _ = load.communicate(timeout=ROUND + 2 * PATIENCE)
        if count := failures(said):
            self.failed(server, reloads, said, count)
        requests = re.search(r"(\d+) requests in", said)
        self.book["requests"] += int(requests[1]) if requests else 0
        if not requests or not int(requests[1]):
            self.wrong.append(f"{server.name} did not answer wrk: {said}")
        if reloads:
            self.book["reloads"] += 1
            wait_for(lambda: len(server.children()) == 2 and not before & server.children(), "new workers alone")
        self.settle(server)

    def settle(self, server: Server) -> None:
        """After a round nothing may be left of it."""
        wait_for(server.answers, f"{server.name} to answer after a round")
        try:
            wait_for(lambda: server.open_files() <= server.files, "descriptors to be closed")
        except AssertionError as error:
            self.wrong.append(f"{server.name}: {server.open_files()} of {server.files} are open: {error}")
        if server is self.uvicorn:
            wait_for(lambda: json.loads(server.get("/statistics"))["connections"] == 1, "connections to be lost")

    def line(self, began: float) -> None:
        facts = ", ".join(f"{count} {what}" for what, count in sorted(self.book.items()))
        told = json.loads(self.uvicorn.get("/statistics"))
        sizes = " ".join(
            f"{each.name} {each.open_files()} files {each.resident_mib():.1f} MiB"
            for each in (self.uvicorn, self.gunicorn)
        )
        lag = f"lag p99 {told['lag']['p99'] * 1e3:.1f} ms, max {told['lag']['max'] * 1e3:.1f} ms"
        print(f"{time.monotonic() - began:6.0f} s  {sizes}  {lag}, {told['accepted']} accepted; {facts}", flush=True)

    def run(self, seconds: float) -> None:
        began = time.monotonic()
        measured: dict[str, list[tuple[float, float]]] = {"uvicorn": [], "gunicorn": []}
        number = 0
        while time.monotonic() - began < seconds and not self.wrong:
            server = self.gunicorn if number % 3 == 2 else self.uvicorn
            self.round(server, reloads=server is self.gunicorn and number % 6 == 5)
            number += 1
            for each in (self.uvicorn, self.gunicorn):
                measured[each.name].append((time.monotonic() - began, each.resident_mib()))
                self.wrong += each.trouble()
            self.line(began)
        for name, samples in measured.items():
            self.check_memory(name, samples, seconds)

    def check_memory(self, name: str, samples: list[tuple[float, float]], seconds: float) -> None:
        warm = min(120.0, seconds / 10)
        span = (seconds - warm) / 3
        first = [size for at, size in samples if warm <= at < warm + span]
        last = [size for at, size in samples if at >= seconds - span]
        if not first or not last:
            print(f"soak: too short to tell whether the memory of {name} grows")
            return
        early, late = statistics.median(first), statistics.median(last)
        print(f"soak: {name} had {early:.1f} MiB in the first third, {late:.1f} MiB in the last")
        if late > early * 1.05 + 4.0:
            self.wrong.append(f"the memory of {name} has grown from {early:.1f} MiB to {late:.1f} MiB")

    def end(self) -> None:
        for server in (self.uvicorn, self.gunicorn):
            server.stop()
            self.wrong += server.trouble()


def missing() -> str | None:
    """What this needs and does not find."""
    if shutil.which("wrk") is None:
        return "wrk ('apt install wrk' on Debian)"
    modules = ("fastapi", "gunicorn", "uvicorn", "uvicorn_worker")
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"{', '.join(absent)} ('scripts/setup.sh --no-build programs')" if absent else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rude", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rude:
        be_rude(arguments.rude, arguments.seed)
    if wants := missing():
        print(f"soak: the servers' soak needs {wants}")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers end with it
    print(f"soak: servers, {arguments.minutes:g} minutes, seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "app.py").write_text(APPLICATION)
        (folder / "load.lua").write_text(LOAD)
        soak = Soak(folder, arguments.seed)
        try:
            soak.run(arguments.minutes * 60)
        except AssertionError as error:
            soak.wrong.append(str(error))
        finally:
            soak.end()
    for line in soak.wrong:
        print(f"soak: WRONG: {line}")
    print(f"soak: {'FAILED' if soak.wrong else 'ok'}, {soak.book['requests']} requests")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
