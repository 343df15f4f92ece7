"""`plait.profile` and the `Profile` that it makes."""

from __future__ import annotations

import os
import sys
import time
from _thread import allocate_lock

from plait import _core
from plait.observe import _session
from plait.observe._settings import OVER, Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Any, BinaryIO

    from plait.observe._ended import Ended
    from plait.observe._records import (
        Bursts,
        DeadlockRecord,
        Evidence,
        FunctionRecord,
        Method,
        Overhead,
        PoolRecord,
        ProcessRecord,
        ProfileRecord,
        TaskRecord,
        ThreadRecord,
    )

    Path = str | os.PathLike[str]

__all__ = ["NotAProfile", "Profile", "Profiling", "collect", "profile"]

_LARGE = ("stacks", "lanes", "gil", "notes")
"""What JSON leaves out unless it is asked for."""

_PATIENCE = 1.0
"""Seconds that children which live on have to write the last of what they have seen."""


_MAGIC = b"PLTR"
"""What traces begin with."""


class NotAProfile(ValueError):
    """What was to be read is none, as against one that is damaged or cut off."""


class Profile:
    """What a program did with its time: how long its threads, processes and tasks ran, waited and for what.

    `plait.profile` and `plait profile` make profiles, `Profile.load` reads one that was saved. Times are seconds.

    >>> import plait, time
    >>> with plait.profile() as found:
    ...     time.sleep(0.1)
    >>> found.wall >= 0.1
    True
    >>> sum(thread["io_wait"] + thread["ready"] for thread in found.threads) > 0.09  # it may wait for a core, too
    True
    """

    __slots__ = ("__weakref__", "_record", "_trace")

    def __init__(self, record: ProfileRecord | None = None, trace: str | None = None) -> None:
        self._record = record
        self._trace = trace

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a profile from a file that was saved, or from the folder of one whose program died.

        Args:
            path: The trace file, a file written by `to_json(whole=True)` or `plait profile --json`, or a folder of traces.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not a profile; the message says what is wrong.
        """
        path = os.fspath(path)
        if not os.path.isdir(path):
            with open(path, "rb") as file:
                head = file.read(64)
            if head.lstrip().startswith(b"{"):
                return cls(_from_json(path))
            if head[:4] != _MAGIC[: len(head)]:
                raise NotAProfile(f"{path!r} is not a trace of plait")
            return cls(_whole([path], path), path)
        traces = _traces(path)
        if not traces:
            raise NotAProfile(f"there is no trace in the folder {path!r}")
        if others := sorted(name for name in os.listdir(path) if not _is_of_profiles(name)):
            raise NotAProfile(f"{path!r} is no folder that a profile has written: {others[0]!r} is in it")
        return cls(_whole(traces, path))

    @property
    def record(self) -> ProfileRecord:
        """All of it as a dict, as docs/design/observation.md has it.

        Raises:
            RuntimeError: The profile has not ended yet.
        """
        if self._record is None:
            raise RuntimeError("the profile has not ended: look at it after the `with` block")
        return self._record

    @property
    def verdict(self) -> str:
        """What holds the program back.

        One of "cpu-bound", "gil-bound", "io-bound", "lock-bound", "ready-bound" (too few cores), "pickling-bound",
        "loop-blocked" and "idle".
        """
        return self.record["verdict"]

    @property
    def evidence(self) -> Evidence:
        """Why that, in a sentence and in figures, and what to try."""
        return self.record["evidence"]

    @property
    def wall(self) -> float:
        """How long the profile was, in seconds."""
        return self.record["wall"]

    @property
    def overhead(self) -> Overhead:
        """What looking has cost."""
        return self.record["overhead"]

    @property
    def methods(self) -> Sequence[Method]:
        """How each thing was observed, and where that was not the best way, why."""
        return self.record["methods"]

    @property
    def limits(self) -> Sequence[str]:
        """What could not be seen."""
        return self.record["limits"]

    @property
    def processes(self) -> Sequence[ProcessRecord]:
        """The program's processes."""
        return self.record["processes"]

    @property
    def threads(self) -> Sequence[ThreadRecord]:
        """Their threads, with the time in each state."""
        return self.record["threads"]

    @property
    def tasks(self) -> Sequence[TaskRecord]:
        """The tasks of their event loops."""
        return self.record["tasks"]

    @property
    def functions(self) -> Sequence[FunctionRecord]:
        """Their functions, by sampled stacks."""
        return self.record["functions"]

    @property
    def pools(self) -> Sequence[PoolRecord]:
        """The tasks of pools, by pool and function: time in the queue, of pickling, of transfer, of running."""
        return self.record["pools"]

    @property
    def deadlocks(self) -> Sequence[DeadlockRecord]:
        """Threads that wait for one another's locks for ever, at the end or for a second.

        Of `threading`'s locks an `RLock` says who has it; of a `Lock` that is known where it was taken by `with`. From
        Python 3.14 on neither is seen.
        """
        return self.record["deadlocks"]

    def bursts(self) -> dict[str, dict[str, Bursts]]:
        """Return how long threads ran and waited at a stretch.

        Returns:
            By name of the thread, `{"cpu": ..., "io": ...}`, each with `count`, `p50`, `p90`, `p99` and `max`.
        """
        found: dict[str, dict[str, Bursts]] = {}
        for thread in self.threads:
            name = thread["name"] or f"thread {thread['tid']}"
            key = name if name not in found else f"{name} ({thread['tid']})"
            found[key] = {"cpu": thread["cpu_bursts"], "io": thread["io_bursts"]}
        return found

    def summary(self, *, color: bool = False, width: int = 80) -> str:
        """Return the report as text, as the terminal shows it.

        Args:
            color: Whether to use the terminal's colours.
            width: Columns.
        """
        from plait.observe.report import terminal

        return terminal.render(self.record, color=color, width=width)

    def save(self, path: Path) -> None:
        """Write the trace, from which `Profile.load` and `plait report` make everything else.

        Raises:
            ValueError: This profile was read from JSON, and has no trace.
        """
        _ = self.record
        if self._trace is None:
            raise ValueError("a profile that was read from JSON has no trace: use to_json")
        import shutil

        shutil.copyfile(self._trace, path)

    def to_json(self, path: Path | None = None, *, whole: bool = False) -> str:
        """Return it as JSON, whose schema is docs/profile.schema.json, and write that to `path` if one is given.

        Args:
            path: Where to write it.
            whole: With every stack, lane and segment, as large as they are; by default the sums alone.
        """
        import json

        record: dict[str, Any] = {name: value for name, value in self.record.items() if whole or name not in _LARGE}
        text = json.dumps(record, indent=None if whole else 2, allow_nan=False)
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text + "\n")
        return text

    def to_html(self, path: Path) -> None:
        """Write a report as one page that needs nothing else."""
        from plait.observe.report import html

        html.write(self.record, os.fspath(path))

    def to_perfetto(self, path: Path) -> None:
        """Write a trace for https://ui.perfetto.dev.

        Raises:
            ValueError: This profile was read from JSON, and has no trace.
        """
        _ = self.record
        if self._trace is None:
            raise ValueError("a profile that was read from JSON has no trace: write it from the trace file")
        _core.write_perfetto([self._trace], os.fspath(path))

    def to_speedscope(self, path: Path) -> None:
        """Write the sampled stacks for https://www.speedscope.app."""
        from plait.observe.report import speedscope

        speedscope.write(self.record, os.fspath(path))

    def __repr__(self) -> str:
        if self._record is None:
            return "<plait.Profile, not ended>"
        return f"<plait.Profile of {self.wall:.3f} s: {self.verdict}>"


def _whole(traces: list[str], path: str) -> ProfileRecord:
    from plait.observe import _ended

    record = _ended.loaded(traces, folder=path if os.path.isdir(path) else None)
    if not record["processes"]:
        if record["limits"]:
            raise ValueError(
                f"{path!r} holds nothing of any process: it ends in the middle of its first piece, since it was cut off or "
                "its program was killed as it began"
            )
        raise ValueError(f"{path!r} holds nothing of any process: it is empty, or its program died as it began")
    return record


def _from_json(path: str) -> ProfileRecord:
    import json

    with open(path, encoding="utf-8") as file:
        try:
            record: Any = json.load(file)
        except ValueError as error:
            raise NotAProfile(f"{path!r} is neither a trace of plait nor JSON: {error}") from None
    try:
        known = record["schema"] == 1 and "threads" in record
    except (TypeError, LookupError):
        known = False
    if not known:
        raise NotAProfile(f"{path!r} is JSON, but no profile of plait with schema 1")
    # What those of older versions lack.
    record.setdefault("deadlocks", [])
    for process in record.get("processes", ()):
        process.setdefault("stopped", 0.0)
        process.setdefault("faults_minor", 0)
        process.setdefault("faults_major", 0)
    found: ProfileRecord = record
    return found


def _is_of_profiles(name: str) -> bool:
    """Whether a file in the folder of a profile may be called that."""
    import re

    words = r"\d+(-\d+)?\.(started|became|server|note|exit)"
    return re.fullmatch(rf"over|whole|\d+-[\d.]+\.[a-z]+|{words}", name) is not None


def _traces(folder: str, stem: str = "") -> list[str]:
    names = sorted(os.listdir(folder))
    found = [name for name in names if name.startswith(stem) and name.endswith((".part", ".trace"))]
    return [os.path.join(folder, name) for name in found]


def _whole_process(folder: str, stem: str) -> list[BinaryIO]:
    """Open all traces of a process, in the order of their names, which begin with `stem`.

    A child that still writes may give its files other names meanwhile, or make one of two: then all are opened anew, since
    something would be missing, or there twice.
    """
    while True:
        files: list[BinaryIO] = []
        try:
            for path in (before := _traces(folder, stem)):
                files.append(open(path, "rb"))  # noqa: SIM115 - the caller closes them
            if before == _traces(folder, stem) and all(map(_is_that, files)):
                return files
        except FileNotFoundError:
            pass
        for file in files:
            file.close()


def _is_that(file: BinaryIO) -> bool:
    """Whether an open file is still the one of its name."""
    return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))


def _lives(name: str) -> bool:
    """Whether the process that writes this file is there."""
    return os.path.exists(f"/proc/{name.partition('-')[0]}")


def collect(folder: str, into: str, ended: Ended | None = None, *, detail: bool = True) -> ProfileRecord:
    """End the profile in `folder`, wait until all processes have written what they have, and put it together in `into`.

    Args:
        folder: The folder of the profile.
        into: The trace file to write.
        ended: How its program has ended, where the caller knows.
        detail: Whether stacks, lanes and strips are wanted too.

    Raises:
        RuntimeError: No process has left a trace.
    """
    with open(os.path.join(folder, OVER), "w"):
        pass
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if not any(name.endswith(".part") and _lives(name) for name in os.listdir(folder)):
            break
        time.sleep(0.01)
    stems = {os.path.basename(trace).partition(".")[0] for trace in _traces(folder)}
    _join(folder, sorted(stems), into)
    if not stems and not (ended and ended.signal):
        raise RuntimeError("no process has left a trace: Python was not started, or with -I, -E or -S")
    from plait.observe import _ended

    _core.add_word(into, _ended.to_word(folder, ended))
    return _ended.loaded([into], whole=detail)


def _join(folder: str, stems: list[str], into: str) -> None:
    """Put the files of all processes together."""
    with open(into, "wb") as whole:
        for stem in stems:
            for part in _whole_process(folder, f"{stem}."):
                with part:
                    while some := part.read(1 << 20):
                        whole.write(some)


def _discard(folder: str, owner: int) -> None:
    import shutil

    if os.getpid() != owner:
        return
    settings = _session.current()
    if settings is not None and settings.folder == folder:  # the program ends, and a thread of it is in the block still
        _session.end()
    shutil.rmtree(folder, ignore_errors=True)


class Profiling:
    """What `plait.profile` returns: profiles what runs in its `with` block."""

    def __init__(self, save: Path | None, settings: tuple[float, bool, bool]) -> None:
        self._save: str | None = None if save is None else os.path.abspath(os.fspath(save))
        self._settings = settings
        self._folder = ""
        self._profile = Profile()
        self._began = False
        self._owner = 0

    def __enter__(self) -> Profile:
        if self._began:
            raise RuntimeError("a profile can be made once: call plait.profile() again for another one")
        while giving_way:
            giving_way.pop()()
        if _session.current() is not None or not _turn.acquire(blocking=False):
            raise RuntimeError(
                "this process is being profiled already: one profile at a time, and a program that runs under "
                "`plait profile` is in one"
            )
        try:
            if self._save is None:
                import tempfile

                self._folder = tempfile.mkdtemp(prefix="plait-profile-")
            else:
                # Beside the file, so that it is found if the program dies.
                self._folder = f"{self._save}.parts"
                os.makedirs(self._folder)
            rate, tasks, children = self._settings
            try:
                _session.begin(Settings(self._folder, rate, tasks, children), _name())
            except BaseException:
                import shutil

                shutil.rmtree(self._folder, ignore_errors=True)
                raise
        except BaseException:
            _turn.release()
            raise
        self._began = True
        self._owner = os.getpid()
        if self._save is None:
            import weakref

            weakref.finalize(self._profile, _discard, self._folder, self._owner)
        return self._profile

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._owner:  # a fork of the program has come here: the profile is its parent's
            return
        _session.end()
        _turn.release()
        keep = self._save is not None
        into = self._save if self._save is not None else os.path.join(self._folder, "whole")
        self._profile._record = collect(self._folder, into)
        self._profile._trace = into
        if keep:
            import shutil

            shutil.rmtree(self._folder, ignore_errors=True)


#: What ends a profile that only looks on while a program runs that may make one of its own.
giving_way: list[Callable[[], object]] = []

_turn = allocate_lock()


def _forked() -> None:
    global _turn
    _turn = allocate_lock()


os.register_at_fork(after_in_child=_forked)


def _name() -> str:
    return os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"


def _check_rate(rate: Any) -> None:
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise TypeError(f"rate must be a number of stacks a second, not {rate!r}")
    if not 0 <= rate <= 10_000:
        raise ValueError(f"rate must be from 0 to 10000 stacks a second, not {rate!r}")


def profile(save: Path | None = None, *, rate: float = 100.0, tasks: bool = True, children: bool = True) -> Profiling:
    """Profile what runs in a `with` block: all threads of the process, its tasks, and its children.

    Threads that were there before are seen too, workers of process pools that were there are not. One more thread looks on
    beside them, which slows the program down by a few percent at most. In any thread, also where an event loop runs; one
    profile at a time. `plait profile script.py` does the same for a whole program.

    Args:
        save: File to write the trace to, for `plait report` and `Profile.load`. While it is made its parts lie in a folder
            beside it, which stays, and can be read, if the program dies.
        rate: Stacks a second that are looked at, up to 10000; 0 for none, and no functions in the report then.
        tasks: Whether to observe tasks of event loops.
        children: Whether to observe processes that start meanwhile.

    Returns:
        A context manager, which gives the `Profile`. That can be looked at after the block.

    Raises:
        RuntimeError: This process is being profiled already.
        FileExistsError: The folder of parts, `save` with `.parts`, is there from an earlier program.
        ValueError: `rate` is not from 0 to 10000.
        TypeError: An argument is not what it should be.

    >>> import plait
    >>> with plait.profile() as found:
    ...     sum(number * number for number in range(1_000_000))
    333332833333500000
    >>> any(thread["on_cpu_gil"] > 0 for thread in found.threads)
    True
    """
    _check_rate(rate)
    if save is not None:
        os.fspath(save)
    return Profiling(save, (float(rate), bool(tasks), bool(children)))
