"""What a program still has when it ends goes when modules have lost what is in them: nothing is said of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# What `multiprocessing` does keeps the main module, and so what it names, until after most others.
PROGRAM = """\
import asyncio, builtins, socket, sys
import multiprocessing
import plait

def count(n):
    return sum(range(n))

async def serve(loop):
    one, two = socket.socketpair()
    return two, await loop.create_connection(asyncio.Protocol, sock=one)

if __name__ == "__main__":
{body}
    {keep}
"""

BODIES = {
    "pool of processes": "kept = plait.ProcessPool(1); kept.submit(abs, -5).result()",
    "pool of processes in a with": "with plait.ProcessPool(1) as kept: kept.submit(abs, -5).result()",
    "pool of processes that was shut down": "kept = plait.ProcessPool(1); kept.submit(abs, -5).result(); kept.shutdown()",
    "pool of processes with tasks": "kept = plait.ProcessPool(1); rest = [kept.submit(abs, -5) for _ in range(200)]",
    "map of processes": "pool = plait.ProcessPool(1); kept = pool.map(abs, range(100)); next(kept)",
    "fed map of processes": "pool = plait.ProcessPool(1); kept = pool.map(abs, iter(range(100)), buffersize=3); next(kept)",
    "future of processes": "pool = plait.ProcessPool(1); kept = pool.submit(abs, -5); kept.result()",
    "pool with an initializer": "kept = plait.ProcessPool(1, initializer=count, initargs=(3,)); kept.submit(abs, 5)",
    "pool of threads": "kept = plait.ThreadPool(1); kept.submit(abs, -5).result()",
    "pool of threads in a with": "with plait.ThreadPool(1) as kept: kept.submit(abs, -5).result()",
    "pool of threads that was shut down": "kept = plait.ThreadPool(1); kept.submit(abs, -5).result(); kept.shutdown()",
    "map of threads": "pool = plait.ThreadPool(1); kept = pool.map(abs, range(100)); next(kept)",
    "fed map of threads": "pool = plait.ThreadPool(1); kept = pool.map(abs, iter(range(100)), buffersize=3); next(kept)",
    "automatic pool": "kept = plait.Pool(); kept.submit(abs, -5).result()",
    "automatic pool in a with": "with plait.Pool() as kept: kept.submit(abs, -5).result()",
    "map of an automatic pool": "pool = plait.Pool(); kept = pool.map(count, range(100)); next(kept)",
    "what an automatic pool has learnt": "pool = plait.Pool(); sum(pool.map(count, [20000] * 300)); kept = count",
    "what a closed automatic pool has learnt": "with plait.Pool() as pool: sum(pool.map(count, [20000] * 300)); kept = count",
    "channel": "kept = plait.Channel(3); kept.put(1)",
    "channel of processes": "kept = plait.Channel(3, shared=True); kept.put(1)",
    "locks": "kept = [plait.Lock(), plait.RLock(), plait.Lock(shared=True), plait.Semaphore(1)]; kept[2].acquire()",
    "shared data": "kept = plait.share(bytes(100_000))",
    "shared array": "kept = plait.shared_array((100, 100), 'f8')",
    "loop": "kept = plait.EventLoop(); kept.run_until_complete(asyncio.sleep(0))",
    "loop that was closed": "kept = plait.EventLoop(); kept.run_until_complete(asyncio.sleep(0)); kept.close()",
    "loop with a connection": "loop = plait.EventLoop(); kept = loop.run_until_complete(serve(loop))",
    "loop with a timer": "kept = plait.EventLoop(); kept.call_later(9, print)",
    "loop that is watched": "loop = plait.EventLoop(); kept = [plait.watch_loop(0.1, loop=loop), loop]",
    "watch": "kept = [plait.watch(), plait.ThreadPool(1), plait.ProcessPool(1), plait.EventLoop()]; kept[0].__enter__()",
    "profile": "with plait.profile() as kept: count(100_000)",
    "profile of pools": "with plait.profile() as profile: kept = plait.ProcessPool(1); kept.submit(abs, -5).result()",
}


@pytest.mark.parametrize("keep", ["pass", "builtins.kept = kept"])
@pytest.mark.parametrize("what", BODIES)
def test_nothing_is_said_of_what_goes_when_modules_are_empty(what: str, keep: str, tmp_path: Path) -> None:
    if what == "shared array":
        pytest.importorskip("numpy")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(body="    " + BODIES[what], keep=keep))
    ended = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
