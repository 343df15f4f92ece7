"""A thread that waits for I/O beside one that computes.

    python examples/gil/beside.py [COUNT]

Each answer comes from a pipe within a millisecond, but whoever comes back from a wait has to get the GIL from the thread
that computes, which gives it up after the switch interval of 5 ms.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

COUNT = 100
ECHO = """
import os, time
while question := os.read(0, 1):
    time.sleep(0.001)
    os.write(1, question)
"""


def asks(server: subprocess.Popen[bytes], count: int, done: threading.Event) -> None:
    assert server.stdin is not None
    assert server.stdout is not None
    for _ in range(count):
        os.write(server.stdin.fileno(), b"?")
        os.read(server.stdout.fileno(), 1)
    done.set()


def computes(done: threading.Event) -> None:
    total = 0
    while not done.is_set():
        for number in range(10_000):
            total += number


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    done = threading.Event()
    # -I: a profile of this program does not follow the one that answers.
    command = [sys.executable, "-I", "-c", ECHO]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        threads = [
            threading.Thread(target=asks, args=(server, count, done), name="asks"),
            threading.Thread(target=computes, args=(done,), name="computes"),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(f"{count} answers")
