"""Sleep in threads: however many sleep, it takes as long as one sleep.

python examples/gil/sleeps.py [THREADS]
"""

from __future__ import annotations

import sys
import threading
import time

THREADS = 10

if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else THREADS
    threads = [threading.Thread(target=time.sleep, args=(0.5,)) for _ in range(count)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    print(
        f"{count} sleeps of 0.5 s: {'less' if took < 0.5 * count or count == 1 else 'not less'} than one after the other"
    )
