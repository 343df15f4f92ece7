"""Records the bursts of a serial run from beside: whether the GIL is held, and whether the thread is on a CPU, some
100,000 times a second.

A process of its own reads two things of its parent: the word `locked` of the interpreter's GIL, through `/proc/PID/mem`,
and the state letter of the thread, `/proc/PID/task/TID/stat`. Together they are the kind of burst. Short releases that
fall between two looks are not seen; a part that keeps the GIL and does not look is taken for as long as the GIL was seen
held without a break, if the function is known to be one call of C code. Stands in until the profiler records exactly.
"""

from __future__ import annotations

import array
import ctypes
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Self

KINDS = ("hold", "held_off_cpu", "released", "blocked")
SHORT_NS = 30_000


def gil_address() -> int:
    """Of the GIL's structure, as crates/plait-probe/src/gil.rs has it."""
    runtime = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    get = ctypes.pythonapi.PyInterpreterState_Get
    get.restype = ctypes.c_void_p
    interpreter = get()

    def word(address: int) -> int:
        return ctypes.c_uint64.from_address(address).value

    match sys.version_info.minor:
        case 11:
            address = runtime + 360
        case 12:
            address = word(interpreter + 384)
        case 13:
            address = word(interpreter + word(runtime + 8 * 14))
        case 14:
            address = word(interpreter + word(runtime + 8 * 15))
        case other:
            sys.exit(f"recorder: the GIL of 3.{other} is not known")
    if word(address) != round(sys.getswitchinterval() * 1e6):
        sys.exit("recorder: what lies there is not the GIL")
    return address


def look(pid: int, tid: int, address: int) -> None:
    """The recorder's process: samples until its standard input ends, then writes them out."""
    os.set_blocking(0, False)
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    stat = os.open(f"/proc/{pid}/task/{tid}/stat", os.O_RDONLY)
    at = os.pread(stat, 512, 0).rindex(b")") + 2
    locked, runs = address + 16, b"R"
    samples = array.array("q")
    pread, clock, add = os.pread, time.perf_counter_ns, samples.append
    sys.stdout.buffer.write(b"ready\n")
    sys.stdout.buffer.flush()
    number = 0
    while True:
        held = pread(memory, 1, locked) != b"\0"
        on_cpu = pread(stat, 1, at) == runs
        # Two bits under the time.
        add(clock() << 2 | (0 if held else 2) | (0 if on_cpu else 1))
        number += 1
        if number % 256 == 0:
            try:
                if os.read(0, 1) == b"":
                    break
            except BlockingIOError:
                pass
    sys.stdout.buffer.write(samples.tobytes())


@dataclass
class Stretch:
    kind: str
    ns: int


class Recorder:
    """`with Recorder() as recorder: ...; recorder.stretches(begin, end)` afterwards."""

    def __enter__(self) -> Self:
        command = [sys.executable, __file__, str(os.getpid()), str(threading.get_native_id()), str(gil_address())]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.child.stdout
        self.child.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.child.stdin
        assert self.child.stdout
        self.child.stdin.close()
        raw = self.child.stdout.read()
        self.child.wait()
        self.samples = array.array("q")
        self.samples.frombytes(raw)
        self.place = 0

    def stretches(self, begin: int, end: int) -> tuple[list[Stretch], int]:
        """What was seen between two times, each after the one before, and how often the GIL was let go for an instant."""
        found: list[Stretch] = []
        releases, last, samples = 0, begin, self.samples
        while self.place < len(samples) and samples[self.place] >> 2 < begin:
            self.place += 1
        while self.place < len(samples) and (at := samples[self.place] >> 2) <= end:
            kind = KINDS[samples[self.place] & 3]
            if found and found[-1].kind == kind:
                found[-1].ns += at - last
            else:
                found.append(Stretch(kind, at - last))
            last = at
            self.place += 1
        if found:
            found[-1].ns += end - last
        else:
            found.append(Stretch("hold", end - begin))
        return merge(found), releases + sum(one.kind == "released" and one.ns < SHORT_NS for one in found)


def merge(stretches: list[Stretch]) -> list[Stretch]:
    """Without those too short to be a burst of their own: they go to the one before."""
    found: list[Stretch] = []
    for one in stretches:
        if found and (one.kind == found[-1].kind or one.ns < SHORT_NS):
            found[-1].ns += one.ns
        elif not found and one.ns < SHORT_NS:
            found.append(Stretch("hold", one.ns))
        else:
            found.append(Stretch(one.kind, one.ns))
    return found


if __name__ == "__main__":
    look(*map(int, sys.argv[1:]))
