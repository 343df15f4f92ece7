"""What a program hands to pools: functions whose calls are made in other processes, and those of other packages."""

from __future__ import annotations

import builtins
import functools
import mmap
import os
import sys
import threading
import types
from typing import TYPE_CHECKING, Any, cast

from plait.advice._instructions import pass_on
from plait.advice._meter import LOOKED_AT, PARCELS, Meter, measured

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait.advice._meters import Meters

#: Where the methods are that call a function in another process, by the pool's class; and those that call it in a thread.
_PROCESSES = {
    "concurrent.futures.process": "ProcessPoolExecutor",
    "multiprocessing.pool": "Pool",
    "plait.processes._pool": "ProcessPool",
    "multiprocessing.process": "BaseProcess",
}
_THREADS = {
    "concurrent.futures.thread": "ThreadPoolExecutor",
    "multiprocessing.pool": "ThreadPool",
    "plait.threads._pool": "ThreadPool",
    "threading": "Thread",
}

#: Packages whose methods do with a function what is known of them: those of others may keep it.
_KNOWN = ("concurrent", "multiprocessing", "plait", "asyncio", "builtins")


#: What may be a pool's; what else can be called may not like to be asked.
_METHODS = (types.FunctionType, types.MethodType, types.BuiltinMethodType)


def _classes(names: dict[str, str]) -> tuple[type, ...]:
    """Those of the classes that the program has imported."""
    found: list[Any] = [getattr(sys.modules.get(module), name, None) for module, name in names.items()]
    return tuple(each for each in found if isinstance(each, type))


def _class_of(thing: object) -> type[Any]:
    return type(thing)


class Handing:
    """Decides what a program hands on, by what it hands it to."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def __call__(self, call: Any) -> Any:
        """Return what to call for something that takes a function, to call it again and again."""
        if call is map or call is filter:
            return functools.partial(self._call, call, 0, self._meters.called)
        if isinstance(call, type):
            return self._starting(cast("type[Any]", call))
        if type(call) not in _METHODS:
            return call
        owner: Any = getattr(call, "__self__", None)
        if owner is None:
            known = call is getattr(sys.modules.get("asyncio"), "to_thread", None)
            return functools.partial(self._call, call, 0, self._meters.begun) if known else call
        name = getattr(call, "__name__", "")
        home = next((each.__module__ for each in type(owner).__mro__ if name in each.__dict__), "")
        if home.partition(".")[0] not in _KNOWN:
            return call
        if name == "run_in_executor":
            return functools.partial(self._run_in_executor, call)
        put = self._put(_class_of(owner))
        return call if put is None else functools.partial(self._call, call, 0, put)

    def _put(self, kind: type[Any]) -> Callable[[Any], Any] | None:
        """What stands for a function that a pool of some class is handed; None where it has to be the function itself."""
        if issubclass(kind, _classes(_THREADS)):
            # A class of the program's own may ask what it is that it is given.
            own = kind.__module__.partition(".")[0] not in (*_KNOWN, "threading")
            return self._meters.called if own else self._meters.begun
        if issubclass(kind, _classes(_PROCESSES)):
            return self._handed
        return None

    def _handed(self, function: Any) -> Any:
        meter = self._meters.meter_of(function)
        if meter is None or not self._meters.folder:
            return function
        return Handed(meter.name, function, self._meters.folder, os.getpid())

    def _starting(self, kind: type[Any]) -> Any:
        put = self._put(kind)
        if put is None:
            return kind

        def start(*args: Any, **kwargs: Any) -> Any:
            if "target" in kwargs:
                kwargs["target"] = put(kwargs["target"])
            return kind(*args, **kwargs)

        return start

    def _run_in_executor(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        kind = _class_of(args[0] if args else None)
        put = self._meters.begun if kind is type(None) else self._put(kind)
        return call(*args, **kwargs) if put is None else self._call(call, 1, put, *args, **kwargs)

    @staticmethod
    def _call(call: Any, place: int, put: Callable[[Any], Any], /, *args: Any, **kwargs: Any) -> Any:
        if len(args) > place:
            args = (*args[:place], put(args[place]), *args[place + 1 :])
        try:
            return call(*args, **kwargs)
        except BaseException:
            pass_on()
            raise


class _Calls:
    """What is seen in this process of calls that others have asked for: the first of a function each, and the number of all."""

    def __init__(self, folder: str, name: str, number: int) -> None:
        path = f"{folder}/{os.getpid()}-{number}"
        self.meter = Meter(name, program=True)
        self.meter.parcels = [(0, 0, 0, 0, 0, 0)] * PARCELS  # they have been pickled
        self._file = os.open(f"{path}.calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.write(self._file, f"{name}\n".encode())
        # A count that is there also if the process is ended in the middle.
        count = os.open(f"{path}.count", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.truncate(count, 8)
        self.count = memoryview(mmap.mmap(count, 8)).cast("Q")
        os.close(count)

    def add(self, at: int) -> None:
        """Write down what a call took, by its place among those of the meter."""
        sample = self.meter.samples[at]
        figures = (sample.began, sample.wall, sample.cpu, sample.held, sample.wanted, sample.ready)
        os.write(self._file, ("\t".join(map(str, figures)) + "\n").encode())


_calls: dict[tuple[int, str, str], _Calls] = {}
_making = threading.Lock()


def _calls_of(folder: str, name: str) -> _Calls | None:
    key = os.getpid(), folder, name
    found = _calls.get(key)
    if found is None:
        with _making:
            try:
                found = _calls.get(key) or _Calls(folder, name, len(_calls))
            except OSError:  # the program has ended, or there is no room
                return None
            _calls[key] = found
    return found


class Handed:
    """A function that a pool is to call in another process: what its calls take is written to a file there."""

    def __init__(self, name: str, function: Any, folder: str, pid: int) -> None:
        functools.update_wrapper(self, function)
        self._name = name
        self._function = function
        self._folder = folder
        self._pid = pid

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if os.getpid() == self._pid:
            return self._function(*args, **kwargs)
        function = self._function
        calls = _calls_of(self._folder, self._name)
        if calls is None:
            return function(*args, **kwargs)
        calls.count[0] += 1
        seen = len(calls.meter.samples)
        if seen >= LOOKED_AT:
            return function(*args, **kwargs)
        try:
            return measured(calls.meter, function, args, kwargs)
        except BaseException:
            pass_on()
            raise
        finally:
            if len(calls.meter.samples) > seen:
                calls.add(seen)

    def __reduce__(self) -> tuple[Any, ...]:
        return Handed, (self._name, self._function, self._folder, self._pid)

    def __eq__(self, other: object) -> bool:
        return bool(self._function == (other._function if isinstance(other, Handed) else other))

    def __hash__(self) -> int:
        return hash(self._function)

    def __repr__(self) -> str:
        return repr(self._function)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._function, name)


def gather(folder: str) -> dict[str, tuple[int, list[list[int]]]]:
    """By function, how many calls other processes have made of it, and the figures of the first ones of each."""
    found: dict[str, tuple[int, list[list[int]]]] = {}
    for entry in sorted(os.listdir(folder)):
        path = os.path.join(folder, entry)
        if not path.endswith(".calls"):
            continue
        with open(path, encoding="utf-8") as file:
            name, *lines = file.read().split("\n")
        with open(path.removesuffix("calls") + "count", "rb") as file:
            count = int.from_bytes(file.read(8), sys.byteorder)
        rows = [list(map(int, line.split("\t"))) for line in lines if line.count("\t") == 5]
        calls, before = found.get(name, (0, []))
        found[name] = calls + max(count, len(rows)), before + rows
    return found


class Plain:
    """What stands in a function's instructions, in another process that it was sent to: the function's own."""

    def __init__(self) -> None:
        self._body: Any = None

    def __setstate__(self, state: tuple[types.FunctionType, dict[str, Any]]) -> None:
        self._body, names = state
        for name, value in names.items():  # what its instructions call by name
            if not hasattr(builtins, name):
                setattr(builtins, name, value)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._body(*args, **kwargs)
