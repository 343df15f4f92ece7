"""Figures in words."""

from __future__ import annotations


def seconds(value: float) -> str:
    """A time with a unit that suits it, to two digits.

    >>> seconds(0.0000123), seconds(0.25), seconds(3.0)
    ('12 us', '250 ms', '3 s')
    """
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= factor:
            return f"{_two_digits(value / factor)} {unit}"
    return f"{_two_digits(value / 1e-9)} ns"


def bytes_(value: float) -> str:
    """A size with a unit that suits it.

    >>> bytes_(1536.0), bytes_(64 << 20)
    ('1.5 KiB', '64 MiB')
    """
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= factor:
            return f"{_two_digits(value / factor)} {unit}"
    return f"{value:.0f} B"


def rate(value: float) -> str:
    """So many a second.

    >>> rate(1234567.0)
    '1.2 M/s'
    """
    for factor, unit in ((1e6, "M/s"), (1e3, "k/s")):
        if value >= factor:
            return f"{_two_digits(value / factor)} {unit}"
    return f"{_two_digits(value)}/s"


def ratio(value: float) -> str:
    """So many times.

    >>> ratio(1.943)
    '1.9x'
    """
    return f"{_two_digits(value)}x"


def _two_digits(value: float) -> str:
    if value >= 9.95:
        return f"{value:.0f}"
    text = f"{value:.1f}"
    return text.removesuffix(".0")
