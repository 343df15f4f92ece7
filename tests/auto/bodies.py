"""What the tests run: functions of a module, so that worker processes find them."""

from __future__ import annotations

import os
import threading
import time
from typing import Any


def square(number):
    return number * number


def nap(seconds, value=None):
    time.sleep(seconds)
    return value


def spin(steps):
    total = 0
    for step in range(steps):
        total += step
    return total


def pid_after(steps):
    spin(steps)
    return os.getpid()


def refuse(number):
    if number % 7 == 3:
        raise ValueError(f"not {number}")
    return number


def note(path, number):
    with open(path, "a", encoding="ascii") as file:
        file.write(f"{number}\n")
    return number


def note_and_spin(path, number):
    note(path, number)
    spin(20_000)
    return number


def note_and_change(path, number):
    """Computes at first, waits then, and computes again."""
    note(path, number)
    if 150 <= number < 300:
        time.sleep(0.002)
    else:
        spin(20_000)
    return number


def lock(steps):
    spin(steps)
    return threading.Lock()


def locks_later(number):
    """After some calls it returns what no process can send."""
    spin(30_000)
    return threading.Lock() if number > 150 else number


def turns_slow(number):
    """Tiny calls, which wait from the 5000th on."""
    if number >= 5000:
        time.sleep(0.02)
    return number


def fibonacci(pool, number):
    if number < 2:
        return number
    one, other = pool.submit(fibonacci, pool, number - 1), pool.submit(fibonacci, pool, number - 2)
    return one.result() + other.result()


def die_at_77(parent, number):
    spin(20_000)
    if number == 77 and os.getpid() != parent:
        os._exit(3)
    return number


row = [0]


def hides_a_global(row):
    spin(1_000 * row)
    return note_nothing(row)


def note_nothing(number):
    return number


def numbers(count):
    return list(range(count))


def lock_late(number):
    spin(10_000)
    return threading.Lock() if number == 1900 else number


class TwoArguments(Exception):
    def __init__(self, one, other):
        super().__init__(f"{one}-{other}")
        self.one, self.other = one, other


class WithSlots(ValueError):
    __slots__ = ("place",)

    def __init__(self, *, place):
        super().__init__("at a place")
        self.place = place


class MissingFile(FileNotFoundError):
    def __init__(self, path):
        super().__init__(2, "no such thing", path)


class NotReduced(Exception):
    def __reduce__(self):
        raise RuntimeError("is not reduced")


class NotRead(Exception):
    def __reduce__(self):
        return int, ("not a number",)


class Holding(Exception):
    def __init__(self):
        super().__init__("holds", threading.Lock())
        self.lock, self.number = threading.Lock(), 3


def raise_two(number):
    raise TwoArguments(number, 2)


def raise_slots(number):
    raise WithSlots(place=number)


def raise_missing(number):
    raise MissingFile(f"/nowhere/{number}")


def raise_group(number):
    raise ExceptionGroup("several", [ValueError(number), TwoArguments(1, number)])


def raise_not_reduced(number):
    raise NotReduced(number)


def raise_not_read(number):
    raise NotRead(number)


def raise_caused(number):
    try:
        raise TwoArguments(number, 1)
    except TwoArguments as cause:
        error: Any = ValueError(number)
        error.add_note("a note")
        error.extra = number
        raise error from cause


def raise_meanwhile(number):
    try:
        return {}[number]
    except KeyError:
        raise ValueError(number)


def raise_hiding(number):
    try:
        return {}[number]
    except KeyError:
        raise ValueError(number) from None


def raise_in_a_circle(number):
    one, other = ValueError(number), TwoArguments(number, 1)
    one.__cause__, other.__cause__ = other, one
    raise one


def raise_leaving(number):
    raise SystemExit(number)


def raise_holding(number):
    spin(20_000)
    if number % 5 == 3:
        raise Holding
    return number


def raise_local(number):
    class Local(Exception):
        pass

    spin(20_000)
    if number % 5 == 3:
        raise Local(number)
    return number


def spin_and_raise_two(number):
    spin(20_000)
    raise_two(number)


def spin_and_raise_caused(number):
    spin(20_000)
    raise_caused(number)


def spin_and_raise_meanwhile(number):
    spin(20_000)
    raise_meanwhile(number)


async def echo(value):
    return value


def spins_and_returns_a_coroutine(value):
    spin(10_000)
    return echo(value)
