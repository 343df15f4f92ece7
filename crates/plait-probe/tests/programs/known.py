"""Threads whose stacks are known: each says what Python itself sees of it, then all wait until standard input ends."""

import asyncio
import functools
import sys
import threading

done = threading.Event()


def wait(*_):
    done.wait()


class Base:
    def __init__(self, then):
        self.then = then
        then()

    @classmethod
    def of_class(cls):
        return cls(cls.of_nobody)

    @staticmethod
    def of_nobody():
        return Base.__call__(object.__new__(Base))

    def __call__(self):
        return (
            self + 1  # the line of an operator that is spread over several
        )

    def __add__(self, other):
        return self.shown

    @property
    def shown(self):
        return [wait() for _ in range(1)]


def nested():
    def inner():
        return (lambda: Base.of_class())()

    inner()


def generator():
    def leaf():
        yield 1
        yield wait()

    def middle():
        yield from leaf()

    for _ in middle():
        pass


def coroutine():
    async def leaf():
        wait()

    async def middle():
        await leaf()

    async def asynchronous():
        yield 1
        await middle()
        yield 2

    async def outer():
        async for _ in asynchronous():
            pass

    asyncio.run(outer())


def called_by_c():
    sorted([2, 1], key=functools.partial(wait))


def executed():
    code = "def made():\n\n    wait()\n\n\nmade()\n"
    exec(compile(code, "<made ☃>", "exec"), {"wait": wait})


def naïve():
    def функция():
        def 𠀀漢():
            wait()

        𠀀漢()

    функция()


def recursion():
    def down(n):
        if n:
            return down(n - 1)
        wait()
        return None

    down(600)


def deepest():
    def down(n):
        return down(n - 1) if n else wait()

    sys.setrecursionlimit(5000)
    down(3000)


def specialised():
    for n in range(200):
        Quick(n == 199)


class Quick:
    def __init__(self, last):
        if last:
            wait()


def show(name, tid, frame):
    parts = []
    while frame:
        code = frame.f_code
        parts.append(f"{code.co_qualname}\t{code.co_filename}\t{code.co_firstlineno}\t{frame.f_lineno}")
        frame = frame.f_back
    print(name, tid, *parts, sep="\x1f", flush=True)


def main():
    threading.stack_size(64 << 20)
    functions = [nested, generator, coroutine, called_by_c, executed, naïve, recursion, deepest, specialised]
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    waiting = 0
    while waiting < len(threads):
        frames = sys._current_frames()
        waiting = sum(
            frames[thread.ident].f_back.f_back.f_code is wait.__code__
            for thread in threads
            if frames[thread.ident].f_back and frames[thread.ident].f_back.f_back
        )
    frames = sys._current_frames()
    for function, thread in zip(functions, threads):
        show(function.__name__, thread.native_id, frames[thread.ident])
    print(flush=True)
    sys.stdin.read()


main()
