"""What the tests run: functions of a module, so that worker processes find them."""

from __future__ import annotations

import os
import threading
import time


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
