"""The observer has descriptors of its own: a program may close all that it does not know, and children have none of them."""

from __future__ import annotations

from typing import Any

COMMON = """
import os, sys, tempfile, time
import plait

def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass

def descriptors():
    names = os.listdir("/proc/self/fd")
    links = {}
    for name in names:
        try:
            links[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass
    return {number: link for number, link in links.items() if not link.startswith("/proc/")}

def whole(found):
    [main] = [each for each in found.threads if each["tid"] == os.getpid()]
    assert main["wall"] > 0.98 * found.wall, (main, found.wall)
    states = ("on_cpu_gil", "on_cpu_released", "ready", "gil_wait", "gil_held_off_cpu", "io_wait", "lock_wait", "idle")
    assert abs(sum(main[state] for state in states) - main["wall"]) < 0.01 * main["wall"]
    assert main["on_cpu_gil"] + main["on_cpu_released"] + main["ready"] > 0.55, main
    assert 0.25 < main["io_wait"] + main["ready"], main
    assert found.overhead["lost_records"] == 0
"""

CLOSES = """
before = descriptors()
with plait.profile() as found:
    spin(0.3)
    assert descriptors() == before, (before, descriptors())
    os.closerange(3, 4096)
    files = [tempfile.TemporaryFile() for _ in range(200)]
    spin(0.3)
    for number, file in enumerate(files):
        file.write(b"%d" % number)
    time.sleep(0.3)
    child = os.fork()
    if not child:
        named = [link for link in descriptors().values() if "plait" in link or "anon_inode" in link]
        ours = len([each for each in files if each.fileno() in descriptors()])
        os._exit(len(named) * 2 + (ours != 200))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
for number, file in enumerate(files):
    file.seek(0)
    assert file.read() == b"%d" % number, number
whole(found)
print(len(found.processes), [each for each in found.methods if each["what"] == "files"])
"""

SANDBOX = """
import ctypes, platform, struct
CLOSE_RANGE, UNSHARE = 436, {"x86_64": 272, "aarch64": 97}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
# Calls by number: those two are refused, the others are not.
steps = [(0x20, 0, 0, 0), (0x15, 1, 0, CLOSE_RANGE), (0x15, 0, 1, UNSHARE), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("HBBI", *step) for step in steps)
buffer = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(buffer)))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()
with plait.profile() as found:
    spin(0.6)
    time.sleep(0.3)
whole(found)
with plait.profile(children=False):
    [number] = [number for number, link in descriptors().items() if link.endswith(".part")]
    time.sleep(0.4)
    mine = tempfile.TemporaryFile()
    os.dup2(mine.fileno(), number)
    time.sleep(0.6)
assert os.fstat(number).st_size == 0, "it was written to"
assert os.path.samestat(os.fstat(number), os.fstat(mine.fileno())), "it was closed"
print(*[each["how"] for each in found.methods if each["what"] == "files"])
[why] = [each["why"] for each in found.methods if each["what"] == "files"]
assert "Operation not permitted" in why, why
"""

FEW = """
import resource, threading
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
over = threading.Event()
threads = [threading.Thread(target=over.wait) for _ in range(40)]
for thread in threads:
    thread.start()
with plait.profile() as found:
    spin(0.6)
    files = [open(os.devnull) for _ in range(16)]
    time.sleep(0.3)
over.set()
whole(found)
print(len(found.threads))
"""

ENDS = """
import threading
over = False
def some():
    threads = [threading.Thread(target=time.sleep, args=(0.025,)) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
def make():
    while not over:
        some()
some()  # the C library opens a file when threads first get memory, to count the cores
maker = threading.Thread(target=make)
numbers = set()
with plait.profile(children=False):
    maker.start()
    end = time.perf_counter() + 1
    while time.perf_counter() < end:
        number = os.dup(0)
        os.close(number)
        numbers.add(number)
    over = True
    maker.join()
print(len(numbers))
"""


def test_a_program_that_closes_everything(run_script: Any) -> None:
    assert run_script(COMMON + CLOSES).stdout == "2 []\n"


def test_where_a_sandbox_does_not_allow_it(run_script: Any) -> None:
    assert run_script(COMMON + SANDBOX).stdout == "open in the program's table of descriptors\n"


def test_few_descriptors_and_many_threads(run_script: Any) -> None:
    assert run_script(COMMON + FEW).stdout == "41\n"


def test_threads_that_end_open_nothing(run_script: Any) -> None:
    assert run_script(COMMON + ENDS).stdout == "1\n"


def test_the_end_of_a_stream_is_seen_though_the_observer_lives(run_script: Any) -> None:
    """Who reads a program's output to its end need not wait for the profile's."""
    source = (
        COMMON
        + """
read, write = os.pipe()
with plait.profile() as found:
    os.close(write)
    assert os.read(read, 1) == b""
print("done")
"""
    )
    assert run_script(source).stdout == "done\n"
