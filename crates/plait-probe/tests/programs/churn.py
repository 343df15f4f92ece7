"""Threads that come and go, and functions that are made and thrown away: `f7` calls `g7` alone, and is called by `thread_7` or `remake`.

Of `t1` to `t63`, `t7` calls `t14` and `t15` alone."""

import sys
import threading


def spin(n):
    total = 0
    for i in range(n):
        total += leaf(i)
    return total


def leaf(i):
    return inner_leaf(i) + 1


def inner_leaf(i):
    return i


def made(n):
    names = {"spin": spin}
    source = f"def g{n}():\n    return spin({n % 50})\ndef f{n}():\n    return sum(g{n}() for _ in range(3))\n"
    exec(source, names)
    return names


def one_after_the_other(n):
    for i in range(200):
        number = n * 200 + i
        names = made(number)
        exec(f"def thread_{number}():\n    return f{number}()\n", names)
        thread = threading.Thread(target=names[f"thread_{number}"])
        thread.start()
        thread.join()


def remake(ended):
    n = 1_000_000
    while ended.is_alive():
        n += 1
        made(n)[f"f{n}"]()


def tree(ended):
    names = {}
    for n in range(1, 64):
        calls = f"t{2 * n}(), t{2 * n + 1}()" if n < 32 else ""
        unused = ", ".join(f"a{i}=0" for i in range(n % 4))  # so that frames differ in size
        exec(f"def t{n}({unused}):\n    return {calls or None}\n", names)
    while ended.is_alive():
        names["t1"]()


def main():
    print(flush=True)
    ended = threading.Thread(target=sys.stdin.read, daemon=True)
    ended.start()
    for function in (remake, tree):
        threading.Thread(target=function, args=(ended,)).start()
    n = 0
    while ended.is_alive():
        workers = [threading.Thread(target=one_after_the_other, args=(n + i,)) for i in range(4)]
        n += 4
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


main()
