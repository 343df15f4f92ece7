"""Count down from a number: whole, and in two halves in two threads.

    python examples/gil/countdown.py whole [COUNT]
    python examples/gil/countdown.py halves [COUNT]

With a GIL the two threads take turns, so the halves take as long as the whole, and the time for changing over.
"""

from __future__ import annotations

import sys
import threading

COUNT = 50_000_000


def countdown(count: int) -> None:
    while count > 0:
        count -= 1


def halves(count: int) -> None:
    threads = [threading.Thread(target=countdown, args=(count // 2,), name=name) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    how, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else COUNT
    {"whole": countdown, "halves": halves}[how](count)
    print(f"counted down from {count:,}")
