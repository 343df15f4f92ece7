"""The warning of Python 3.12 and later that a process with several threads is forked: not for the observer's thread alone.

That thread keeps no lock which a child may need, and the child has none of it. Where the program has threads of its own, Python
warns as ever.
"""

from __future__ import annotations

import os
import sys
import warnings

from plait.observe import _session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["install"]

_THREADS: Final = 2
"""The program's one, and the observer's."""


def install() -> None:
    """Have forks of programs with one thread unnoticed from now on, while they are observed."""
    if sys.version_info >= (3, 12):
        os.register_at_fork(before=_before_fork)


def _has_one_thread() -> bool:
    """Whether the program has one thread, the observer's not counted."""
    return _session.is_observed() and len(os.listdir("/proc/self/task")) <= _THREADS


class _OfTheObserver:
    """Stands where a filter of warnings has a pattern, and fits the warning while it is not true of the program."""

    pattern: Final = "This process .* is multi-threaded, use of "

    def match(self, text: str) -> bool:
        """Return whether the warning is to be ignored."""
        return text.startswith("This process ") and " is multi-threaded, use of " in text and _has_one_thread()


_filter: Final[Any] = ("ignore", _OfTheObserver(), DeprecationWarning, None, 0)


def _before_fork() -> None:
    """Stand before all other filters: what the program has set since decides about everything else."""
    in_context: Any = getattr(
        warnings, "_get_filters", None
    )  # those that `catch_warnings` has put in their place, from 3.14 on
    filters: Any = warnings.filters if in_context is None else in_context()
    if not _has_one_thread() or (filters and filters[0] is _filter):
        return
    # What was shown before and what was not stays as it is: no other warning passes this filter in another way.
    if _filter in filters:
        filters.remove(_filter)
    filters.insert(0, _filter)
