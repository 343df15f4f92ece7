"""A profile shows deadlocks of the standard library's locks, where it can see who has them, and none that are none."""

from __future__ import annotations

import sys
import sysconfig
from typing import Any

import pytest

# Where locks of earlier builds without a GIL sleep is not known.
SEES = sys.version_info >= (3, 14) or not sysconfig.get_config_var("Py_GIL_DISABLED")

COMMON = """
import json, os, sys, threading, time
import plait

class Account:
    def __init__(self, make):
        self.lock = make()

def pay(source, target, meet):
    with source.lock:
        meet.wait()
        if KIND == "acquire":
            target.lock.acquire()
        with target.lock:
            pass

def stuck(make, parties):
    accounts = [Account(make) for _ in range(parties)]
    meet = threading.Barrier(parties)
    threads = []
    for one in range(parties):
        arguments = (accounts[one], accounts[(one + 1) % parties], meet)
        threads.append(threading.Thread(target=pay, args=arguments, name=f"pays-{one}", daemon=True))
        threads[-1].start()
    return threads
"""

FOUND = """
KIND = "with"
with plait.profile() as found:
    threads = stuck(threading.MAKE, PARTIES)
    time.sleep(WAITS)
[deadlock] = found.deadlocks
assert deadlock["pid"] == os.getpid()
parties = {each["name"]: each for each in deadlock["parties"]}
assert sorted(parties) == [f"pays-{one}" for one in range(PARTIES)]
for one in range(PARTIES):
    each = parties[f"pays-{one}"]
    assert each["holder_name"] == f"pays-{(one + 1) % PARTIES}", each
    assert each["tid"] == threads[one].native_id
    assert each["where"].startswith("pay (") and each["where"].endswith(":14)"), each
    assert each["lock"].startswith("threading.MAKE ("), each
assert "Deadlock" in found.summary() and "held by pays-0" in found.summary()
print("done")
sys.stdout.flush()
os._exit(0)
"""

NONE = """
KIND = "with"
over, lock, condition = threading.Event(), threading.Lock(), threading.Condition()
signal = threading.Lock()
signal.acquire()

def keeps():
    with lock:
        over.wait()

def wants():
    with lock:
        pass

def notified():
    with condition:
        condition.wait()

def taken_and_left():
    with lock:  # a value of it may lie in this frame yet
        pass
    signal.acquire()

left = threading.Lock()
of_a_lock = threading.Condition(left)
first, second = threading.RLock(), threading.RLock()

def notified_late():
    with left:
        of_a_lock.wait()  # takes it again while somebody else has it, within the `with`

def notifies():
    time.sleep(0.1)
    with left:
        of_a_lock.notify()
        over.wait()

def gives_up(mine, others):
    with mine:
        time.sleep(0.1)
        others.acquire(timeout=20)

with plait.profile() as found:
    targets = (taken_and_left, keeps, wants, wants, notified, over.wait, notified_late, notifies)
    threads = [threading.Thread(target=target) for target in targets]
    threads += [threading.Thread(target=gives_up, args=locks, daemon=True) for locks in ((first, second), (second, first))]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    time.sleep(1.3)
assert found.deadlocks == [], found.deadlocks
assert "Deadlock" not in found.summary()
over.set()
signal.release()
with condition:
    condition.notify()
for thread in threads:
    if not thread.daemon:
        thread.join()
print("done")
"""


@pytest.mark.skipif(not SEES, reason="locks do not sleep on words of their own here")
@pytest.mark.parametrize(("make", "parties", "waits"), [("Lock", 2, 0.3), ("RLock", 2, 0.3), ("Lock", 3, 2.3)])
def test_deadlocks_are_shown(run_script: Any, make: str, parties: int, waits: float) -> None:
    """At the end, and while the profile goes on."""
    source = COMMON + FOUND.replace("MAKE", make).replace("PARTIES", str(parties)).replace("WAITS", str(waits))
    assert run_script(source).stdout == "done\n"


def test_what_is_none_is_not_shown(run_script: Any) -> None:
    assert run_script(COMMON + NONE).stdout == "done\n"


def test_faults_are_counted(run_script: Any) -> None:
    source = """
import mmap, plait
pages = 4000
memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
memory.madvise(getattr(mmap, "MADV_NOHUGEPAGE", 15))
with plait.profile() as before:
    pass
with plait.profile() as found:
    for page in range(pages):
        memory[page * mmap.PAGESIZE] = 1
[process], [little] = found.processes, before.processes
assert pages <= process["faults_minor"] < 2 * pages, process
assert little["faults_minor"] < pages / 2, little
assert process["faults_major"] < pages / 2
print("done")
"""
    assert run_script(source).stdout == "done\n"


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_who_has_a_lock_that_changes_hands_as_a_wait_begins(run_script: Any, kind: str) -> None:
    """It has been handed to who had waited for it, and that one has not run since."""
    source = """
import threading, time
import plait

lock, begun = plait.KIND(), threading.Event()

def computes():
    while getter.is_alive() or giver.is_alive():
        pass

def gets():
    lock.acquire()
    time.sleep(0.1)
    lock.release()

def gives():
    lock.acquire()
    begun.set()
    while not lock.statistics()["waiting"]:
        time.sleep(0.001)
    time.sleep(0.01)
    lock.release()
    lock.acquire()
    lock.release()

with plait.profile() as found:
    giver = threading.Thread(target=gives, name="gives")
    giver.start()
    begun.wait()
    getter = threading.Thread(target=gets, name="gets")
    getter.start()
    other = threading.Thread(target=computes, name="computes")
    other.start()
    for thread in (giver, getter, other):
        thread.join()
threads = {each["name"]: each for each in found.threads}
for name, holder in (("gives", "gets"), ("gets", "gives")):
    [wait] = threads[name]["locks"]
    assert wait["holder_name"] == holder, (name, wait)
print("done")
"""
    assert run_script(source.replace("KIND", kind)).stdout == "done\n"


def test_who_has_a_lock_that_it_never_waited_for(run_script: Any) -> None:
    source = """
import threading, time
import plait

locks = {"plait.Lock": plait.Lock(), "plait.RLock": plait.RLock()}
if SEES:
    locks["threading.RLock"] = threading.RLock()

def keeps(lock, begun):
    with lock:
        begun.set()
        time.sleep(0.1)

def wants(lock):
    with lock:
        pass

with plait.profile() as found:
    for name, lock in locks.items():
        begun = threading.Event()
        first = threading.Thread(target=keeps, args=(lock, begun), name=f"keeps {name}")
        first.start()
        begun.wait()
        second = threading.Thread(target=wants, args=(lock,), name=f"wants {name}")
        second.start()
        first.join()
        second.join()
threads = {each["name"]: each for each in found.threads}
for name in locks:
    [wait] = threads[f"wants {name}"]["locks"]
    assert wait["lock"].startswith(name) and wait["holder_name"] == f"keeps {name}", wait
    assert wait["count"] == 1 and 0.08 < wait["time"] < 0.3, wait
    assert threads[f"wants {name}"]["lock_wait"] >= wait["time"]
    if name == "threading.RLock":
        assert wait["where"].startswith("keeps ("), wait
print("done")
"""
    assert run_script(source.replace("SEES", repr(SEES))).stdout == "done\n"


def test_a_wait_for_a_lock_runs_no_code_of_the_program(run_script: Any) -> None:
    """There handlers of signals would run, and what they raise would be lost."""
    source = """
import threading
import plait

class Named(threading.Thread):
    asked = 0

    @property
    def native_id(self):
        Named.asked += 1
        return self._native_id

lock, taken, over = plait.Lock(), threading.Event(), threading.Event()

def holds():
    with lock:
        taken.set()
        over.wait()

with plait.profile() as found:
    thread = Named(target=holds)
    thread.start()
    taken.wait()
    asked = Named.asked
    assert not lock.acquire(timeout=0.05)
    assert Named.asked == asked, Named.asked
    over.set()
    thread.join()
[main] = [each for each in found.threads if each["name"] == "MainThread"]
assert [each["holder"] for each in main["locks"] if each["lock"].startswith("plait.Lock")] == [thread._native_id], main["locks"]
print("done")
"""
    assert run_script(source).stdout == "done\n"
