"""Figures in words, for every report: times, sizes, rates, ratios."""

from __future__ import annotations


def seconds(value: float, digits: int = 3) -> str:
    """A time in at most eight characters, with a unit that suits it.

    Args:
        value: Seconds.
        digits: How many count: three, or two where a machine's noise leaves no more.

    >>> seconds(0.0451), seconds(0.00031), seconds(1.5), seconds(0)
    ('45.1 ms', '310 µs', '1.50 s', '0')
    >>> seconds(0.0123, 2), seconds(0.00123, 2), seconds(3.0, 2)
    ('12 ms', '1.2 ms', '3.0 s')
    """
    size = abs(value)
    if size < 5e-10:
        return "0"
    for below, unit, scale in ((1e-6, "ns", 1e9), (1e-3, "µs", 1e6), (1.0, "ms", 1e3)):
        if size < below * 0.9995:
            return f"{number(value * scale, digits)} {unit}"
    if size < 600:
        return f"{number(value, digits)} s" if size < 99.95 else f"{value:.0f} s"
    if size < 6 * 3600:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h"


def number(value: float, digits: int = 3) -> str:
    """A number in so many digits that count, as far as they stand behind the point.

    >>> number(1.234), number(12.34), number(123.4), number(1.234, 2), number(12.34, 2)
    ('1.23', '12.3', '123', '1.2', '12')
    """
    size, places = abs(value), digits - 1
    below = 10 - 0.5 / 10**places
    while places > 0 and size >= below:
        places -= 1
        below = 10 ** (digits - places) - 0.5 / 10**places
    return f"{value:.{places}f}"


def size(count: float, digits: int | None = None) -> str:
    """So many bytes.

    >>> size(1536), size(64 << 20), size(64 << 20, 2), size(0)
    ('1.5 KiB', '64.0 MiB', '64 MiB', '0 B')
    """
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            if unit == "B":
                return f"{count:.0f} B"
            return f"{count:.1f} {unit}" if digits is None else f"{number(count, digits)} {unit}"
        count /= 1024
    return f"{count:.1f} GiB" if digits is None else f"{number(count, digits)} GiB"


def rate(value: float) -> str:
    """So many a second.

    >>> rate(1234567.0), rate(800)
    ('1.2 M/s', '800/s')
    """
    for factor, unit in ((1e6, "M/s"), (1e3, "k/s")):
        if value >= factor:
            return f"{number(value / factor, 2)} {unit}"
    return f"{number(value, 2)}/s"


def ratio(value: float) -> str:
    """So many times.

    >>> ratio(1.943)
    '1.9x'
    """
    return f"{number(value, 2)}x"


def times(count: int) -> str:
    """How often.

    >>> times(1), times(2), times(20_000)
    ('once', '2 times', '20,000 times')
    """
    return "once" if count == 1 else f"{count:,} times"


def brief(text: str, most: int) -> str:
    r"""The first line of a text, cut at a word where it is longer.

    >>> brief("cannot pickle this\nsince it is a lock", 80), brief("cannot pickle this", 15), brief("x" * 9, 5)
    ('cannot pickle this', 'cannot pickle …', 'xxxx…')
    """
    line = text.partition("\n")[0]
    if len(line) <= most:
        return line
    begin, space, _ = line[: most - 1].rpartition(" ")
    return f"{begin} …" if space else f"{line[: most - 1]}…"
