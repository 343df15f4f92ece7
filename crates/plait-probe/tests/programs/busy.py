"""Two threads that compute, one that sleeps, a pool with nothing to do, and a child: until standard input ends."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

done = False


def spin():
    while not done:
        pass


def snooze():
    while not done:
        time.sleep(0.5)


def main():
    global done
    for function in (spin, spin, snooze):
        threading.Thread(target=function).start()
    with ThreadPoolExecutor(1, thread_name_prefix="pool") as pool:
        pool.submit(int).result()
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        child.stdout.readline()
        print(flush=True)
        sys.stdin.read()
        child.communicate()
        done = True


main()
