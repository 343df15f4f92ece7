"""What all executors share: options of a task, checks of arguments, `map`, and views with other options."""

from __future__ import annotations

import _thread
import concurrent.futures
import itertools
import math
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, ParamSpec, Protocol, TypeVar

from plait import _core

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Self

    from plait._future import Future

__all__ = [
    "MapArguments",
    "MapCore",
    "Options",
    "Pool",
    "View",
    "check_initializer",
    "map_items",
    "may_spin",
    "positive_int",
    "uninterrupted",
]

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_WINDOW_MOST = 100_000
"""Items of an unsized input that are under way at most."""

_CHUNKS_AHEAD = 4
"""Chunks per worker that are under way while an unsized input is pulled."""

_NOT_A_CHUNK = "chunksize must be >= 1, or None to choose it from measured durations"


class Options(NamedTuple):
    """What may be asked for one task, checked."""

    timeout: float | None
    retries: int
    priority: int

    @classmethod
    def check(cls, timeout: float | None, retries: int, priority: int) -> Options:
        """Return the options, or raise TypeError or ValueError that names the argument and its value."""
        if timeout is not None:
            if isinstance(timeout, bool) or not isinstance(timeout, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
            if not timeout > 0 or math.isinf(timeout):
                raise ValueError(f"timeout must be a finite number of seconds above 0, not {timeout!r}")
        for name, value in (("retries", retries), ("priority", priority)):
            if isinstance(value, bool) or not isinstance(value, int):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"{name} must be an int, not {value!r}")
        if not 0 <= retries < 2**31:
            raise ValueError(f"retries must be 0 or more, not {retries!r}")
        if not -(2**31) <= priority < 2**31:
            raise ValueError(f"priority must fit in 32 bits, not {priority!r}")
        return cls(None if timeout is None else float(timeout), retries, priority)

    def changed(self, timeout: float | None, retries: int | None, priority: int) -> Options:
        """Return other options, checked, that have this timeout and these retries where none are given."""
        return Options.check(
            self.timeout if timeout is None else timeout,
            self.retries if retries is None else retries,
            priority,
        )


def positive_int(name: str, value: object) -> int:
    """Return `value`, or raise TypeError or ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value <= 0:
        raise ValueError(f"{name} must be greater than 0, not {value!r}")
    return value


def check_initializer(initializer: object) -> None:
    """Raise TypeError unless it is None or can be called."""
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer must be a callable, not {initializer!r}")


def may_spin() -> bool:
    """Whether who waits may look for a moment before it sleeps."""
    return os.environ.get("PLAIT_SPIN", "1") != "0"


class MapFeeder(Protocol):
    """What takes the rest of an input as there is room, below."""

    def run(self, source: Iterable[Any], /) -> None: ...


class MapCore(Protocol[T_co]):
    """A `map` under way, below: items go in, and it iterates over results."""

    def pull(self, source: Iterator[Any], most: int | None = None) -> bool: ...
    def fill(self, source: Iterable[Any]) -> bool: ...
    def feeder(self) -> MapFeeder: ...
    def send(self, last: bool) -> None: ...
    def begin(self, ordered: bool, deadline_ns: int | None) -> None: ...
    def __iter__(self) -> Iterator[T_co]: ...
    def __next__(self) -> T_co: ...
    def close(self) -> None: ...
    @property
    def outstanding(self) -> int: ...
    @property
    def chunk(self) -> int: ...


class MapArguments(NamedTuple):
    """The keyword arguments of `map`, checked."""

    chunksize: int | None
    buffersize: int | None
    ordered: bool
    progress: Callable[[int, int | None], object] | None

    @classmethod
    def check(
        cls,
        chunksize: int | None,
        buffersize: int | None,
        ordered: bool,
        progress: bool | Callable[[int, int | None], object] | None,
    ) -> MapArguments:
        """Return the arguments, or raise TypeError or ValueError."""
        if chunksize is not None:
            if isinstance(chunksize, bool) or not isinstance(chunksize, int):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"chunksize must be an int or None, not {chunksize!r}")
            if chunksize < 1:
                raise ValueError(f"{_NOT_A_CHUNK}, not {chunksize!r}")
        if buffersize is not None:
            if isinstance(buffersize, bool) or not isinstance(buffersize, int):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"buffersize must be an integer or None, not {buffersize!r}")
            if buffersize < 1:
                raise ValueError(f"buffersize must be None or > 0, not {buffersize!r}")
        show: Callable[[int, int | None], object] | None
        if progress is True:
            show = ProgressBar()
        elif progress is None or progress is False:
            show = None
        elif callable(progress):
            show = progress
        else:
            raise TypeError(f"progress must be True or a callable of (done, total), not {progress!r}")
        chunk = None if chunksize is None else min(chunksize, 2**20)
        return cls(chunk, buffersize, bool(ordered), show)


def map_items(
    core: MapCore[T],
    iterables: tuple[Iterable[Any], ...],
    arguments: MapArguments,
    workers: int,
    deadline_ns: int | None,
    bare: bool,
    pool: object = None,
) -> Iterator[T]:
    """Feed `iterables` into `core`, which takes single arguments if they are `bare`, and return the iterator over its results.

    Inputs that are all sized are consumed here, or as far as there is room for their items, and the rest by a thread as workers
    get on. Others, and any with a buffer size, are pulled as results are taken: never more than the buffer size ahead, or as
    much as keeps the workers busy. A `pool` that ends with its last reference is kept so long.
    """
    total = _length(iterables)
    core.begin(arguments.ordered, deadline_ns)
    try:
        if total is None or arguments.buffersize is not None:
            feeder = _Feeder(core, iter(_items(iterables, bare)), arguments, workers, pool)
            feeder.fill()
            return _Results(core, feeder, arguments.progress, total)
        _take_all(core, iterables, bare, total)
    except BaseException:
        core.close()  # or a pool that is left by this exception would wait for the rest of the items
        raise
    if arguments.progress is None:
        return core
    return _Results(core, None, arguments.progress, total)


def _length(iterables: tuple[Iterable[Any], ...]) -> int | None:
    """Return how many items the inputs give together, or None if one does not say."""
    try:
        return min((len(iterable) for iterable in iterables), default=0)  # type: ignore[arg-type]
    except TypeError:
        return None


def _items(iterables: Sequence[Iterable[Any]], bare: bool) -> Iterable[Any]:
    """Return the items that `iterables` give: tuples of arguments, or the one argument that each has if they are `bare`."""
    return iterables[0] if bare else zip(*iterables, strict=False)


def _take_all(core: MapCore[Any], iterables: tuple[Iterable[Any], ...], bare: bool, total: int) -> None:
    """See to it that all items of `iterables` go in, of which there are `total`."""
    inputs = [iterable if _can_be_cut(iterable) else iter(iterable) for iterable in iterables]
    if core.fill(_items(inputs, bare)):
        return
    begun = core.outstanding
    # Of a set, say, what is left has no name: it is what its iterator has not given.
    # Beside a shorter input no more of it is wanted than there will be calls.
    most = None if bare else max(total - begun, 0)
    left = [_cut(given, begun) if _can_be_cut(given) else list(itertools.islice(given, most)) for given in inputs]
    rest = _items(left, bare)
    import threading

    try:
        threading.Thread(target=core.feeder().run, args=(rest,), name="plait-feed").start()
    except RuntimeError:  # no more threads
        core.pull(iter(rest))
        core.send(True)


_IMMUTABLE = (tuple, bytes, str)


def _can_be_cut(iterable: Iterable[Any]) -> bool:
    kind = type(iterable)
    return kind in (range, list, bytearray, *_IMMUTABLE) or (kind.__module__, kind.__name__) == ("numpy", "ndarray")


def _cut(iterable: Any, begin: int) -> Iterable[Any]:
    """Return what comes from item `begin` on: a copy of what the caller may change from now on."""
    if type(iterable) in _IMMUTABLE:
        return itertools.islice(iterable, begin, None)
    rest: Any = iterable[begin:]
    copied: Iterable[Any] = rest if type(rest) in (range, list, bytearray) else rest.copy()
    return copied


class _Feeder:
    """Pulls an input as far ahead as is wanted."""

    def __init__(
        self,
        core: MapCore[Any],
        source: Iterator[Any],
        arguments: MapArguments,
        workers: int,
        pool: object,
    ) -> None:
        self._pool = pool
        self._core = core
        self._source: Iterator[Any] | None = source
        self._buffersize = arguments.buffersize
        self._chunks = _CHUNKS_AHEAD * workers

    def fill(self) -> None:
        """Pull while there is room."""
        source, core = self._source, self._core
        if source is None:
            return
        window = self._buffersize or min(self._chunks * core.chunk, _WINDOW_MOST)
        room = window - core.outstanding
        if room <= 0 or (room < window // 4 and core.outstanding > 0):
            return
        if core.pull(source, room):
            self._source = None
        core.send(self._source is None)


class _Results(Generic[T]):
    """Results of a `map` that is fed or watched while it runs."""

    def __init__(
        self,
        core: MapCore[T],
        feeder: _Feeder | None,
        progress: Callable[[int, int | None], object] | None,
        total: int | None,
    ) -> None:
        self._core = core
        self._feeder = feeder
        self._progress = progress
        self._total = total
        self._done = 0
        self._turn = _thread.allocate_lock()

    def __iter__(self) -> _Results[T]:
        return self

    def __next__(self) -> T:
        if not self._turn.acquire(blocking=False):  # as a generator has it
            raise ValueError("the results of map are being taken by another thread already")
        try:
            if self._feeder is not None:
                self._feeder.fill()
            if self._progress is None:
                return next(self._core)
            value = next(self._core)
            self._done += 1
            self._progress(self._done, self._total)
            return value
        except BaseException:
            self.close()
            raise
        finally:
            self._turn.release()

    def close(self) -> None:
        """Stop, and drop what was not begun."""
        self._feeder = None
        self._core.close()
        if isinstance(self._progress, ProgressBar):
            self._progress.close()

    def __del__(self) -> None:
        if self._feeder is not None:  # nobody is left to feed it
            self._core.close()


class Pool(concurrent.futures.Executor):
    """What pools have beside their cores; it comes after the core among a pool's bases."""

    _shown_name: ClassVar[str]
    _kept_by_map: ClassVar[bool]
    """Whether a pool that nobody refers to any more has to stay for a `map` that pulls its input."""
    _takes_bare: ClassVar[bool]
    """Whether the items of a `map` with one input go in as they are, and not as tuples of one."""
    _max_workers: int

    if TYPE_CHECKING:  # at run time they are the cores', and `_begin_map` is each pool's

        def _submit(
            self,
            timeout: float | None,
            retries: int,
            priority: int,
            fn: Callable[..., T],
            args: tuple[Any, ...],
            kwargs: dict[str, Any] | None,
        ) -> Future[T]: ...
        def _begin_map(
            self, options: Options, fn: Callable[..., T], chunksize: int | None, bare: bool, /
        ) -> MapCore[T]: ...
        def _figures(self) -> dict[str, int]: ...

    def _map_with(
        self,
        options: Options,
        fn: Callable[..., T],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        keywords: tuple[Any, ...],
    ) -> Iterator[T]:
        arguments = MapArguments.check(*keywords)
        deadline_ns = _core.deadline_ns(timeout)
        bare = self._takes_bare and len(iterables) == 1
        try:
            core = self._begin_map(options, fn, arguments.chunksize, bare)
        except Exception:
            if (
                next(zip(*iterables, strict=False), None) is None
            ):  # as the standard library has it: nothing is submitted
                return (value for value in list[T]())
            raise
        return map_items(
            core, iterables, arguments, self._max_workers, deadline_ns, bare, self if self._kept_by_map else None
        )

    async def __aenter__(self) -> Self:
        return self

    def __repr__(self) -> str:
        figures = self._figures()
        return (
            f"<plait.{self._shown_name} max_workers={self._max_workers} workers={figures['workers']} "
            f"idle={figures['workers_idle']} queued={figures['queued']}>"
        )


class View(concurrent.futures.Executor):
    """A pool seen with other options for its tasks."""

    def __init__(self, pool: Pool, options: Options) -> None:
        self._pool = pool
        self._options = options
        self._max_workers = pool._max_workers

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue `fn(*args, **kwargs)` with this view's options; see the pool's `submit`."""
        return self._pool._submit(*self._options, fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        progress: bool | Callable[[int, int | None], object] | None = None,
    ) -> Iterator[T]:
        """Apply `fn` to the items with this view's options; see the pool's `map`."""
        keywords = (chunksize, buffersize, ordered, progress)
        return self._pool._map_with(self._options, fn, iterables, timeout, keywords)

    def options(self, *, timeout: float | None = None, retries: int | None = None, priority: int | None = None) -> Self:
        """Return a further view, with this one's options where none are given."""
        mine = self._options
        return type(self)(self._pool, mine.changed(timeout, retries, mine.priority if priority is None else priority))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the pool down; see the pool's `shutdown`."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def __repr__(self) -> str:
        return f"<{self._options!r} of {self._pool!r}>"


class ProgressBar:
    """What `progress=True` shows on standard error: a bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._last = -math.inf
        self._terminal = bool(sys.stderr) and sys.stderr.isatty()
        self._shown = 0

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        pause = 0.1 if self._terminal else 10.0
        if not self._terminal and self._last == -math.inf:
            self._last = now
        if now - self._last < pause and done != total:
            return
        self._last = now
        self._show(self.line(done, total, now - self._begin))

    @staticmethod
    def line(done: int, total: int | None, seconds: float) -> str:
        """Return the text of the bar.

        >>> ProgressBar.line(30, 120, 2.0)
        '[#######-----------------------]  25 % 30/120, 15/s, 6 s left'
        """
        rate = done / seconds if seconds > 0 else 0.0
        if not total:
            return f"{done} done, {rate:.0f}/s"
        share = done / total
        bar = "#" * int(30 * share)
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        return f"[{bar:-<30}] {100 * share:3.0f} % {done}/{total}, {rate:.0f}/s{left}"

    def _show(self, text: str) -> None:
        if not sys.stderr:
            return
        if self._terminal:
            sys.stderr.write("\r" + text[:79].ljust(self._shown))
            self._shown = min(len(text), 79)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Erase the bar."""
        if self._terminal and self._shown:
            sys.stderr.write("\r" + " " * self._shown + "\r")
            sys.stderr.flush()


def uninterrupted(work: Callable[[], object]) -> None:
    """Do something whole: what Ctrl-C does, it does afterwards.

    In the main thread a signal's handler may raise between any two instructions. What is counted in one and done in the
    next would never be put right: a thread that is expected for ever, or one that nobody knows of.
    """
    before = signal.getsignal(signal.SIGINT) if threading.get_ident() == threading.main_thread().ident else None
    if not callable(before):
        work()
        return
    came: list[types.FrameType | None] = []

    def later(_number: int, frame: types.FrameType | None) -> None:
        came.append(frame)

    try:
        signal.signal(signal.SIGINT, later)
        work()
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            before(signal.SIGINT, came[0])
