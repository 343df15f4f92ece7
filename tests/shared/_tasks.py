"""What the tests of shared memory run in other processes; found there by name."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from typing import Any

import numpy as np

import plait

here: Any = None
"""What `remember` was given."""


class Carrying(Exception):
    """An error that carries an array to whoever catches it."""


def identity(value: Any) -> Any:
    return value


def total(handle: Any) -> float:
    return float(handle.get().sum())


def add_one(array: Any) -> None:
    array += 1


def fill(array: Any, index: Any, value: Any) -> None:
    array[index] = value


def add_in_handle(handle: Any) -> None:
    handle.get()[...] += 1


def make_array(length: int, value: int = 7) -> Any:
    array = plait.shared_array(length, "i8")
    array[:] = value
    return array


def make_shared(length: int) -> Any:
    return plait.share(np.arange(length))


def make_from(handle: Any) -> Any:
    array = plait.shared_array(10, int)
    array[:] = handle.get()
    return array, plait.share(int(array.sum()))


def make_nested(length: int) -> Any:
    return {"arrays": [make_array(length)], "handle": (make_shared(length),)}


def raise_array(length: int) -> Any:
    raise Carrying(make_array(length))


def remember(value: Any) -> None:
    global here
    here = value


def add_to_remembered(value: int) -> None:
    here[...] += value


def remembered_total() -> float:
    return total(here)


def in_pool_of_worker(handle: Any, array: Any) -> float:
    with plait.ProcessPool(1) as pool:
        pool.submit(add_one, array).result()
        return pool.submit(total, handle).result()


def in_fork(handle: Any, array: Any) -> bool:
    pid = os.fork()
    if pid == 0:
        array += 1
        os._exit(int(handle.get().sum() != 45))
    return os.waitpid(pid, 0)[1] == 0


def same_object_at_every_call(handle: Any) -> bool:
    return handle.get() is handle.get()


def refuses_writes(handle: Any) -> bool:
    array = handle.get()
    try:
        array[0] = 1
    except ValueError:
        return not array.flags.writeable
    return False


def hold_and_wait(handle: Any, held: Any) -> None:
    """Hold it until killed."""
    handle.get()
    held[...] = True
    threading.Event().wait()


def hold_and_die(handle: Any) -> None:
    handle.get()
    os.kill(os.getpid(), signal.SIGKILL)


def write_and_die(array: Any) -> None:
    array[0] += 1
    os.kill(os.getpid(), signal.SIGKILL)


def put_made(queue: Any, length: int) -> None:
    """Put what nobody here has a handle of any more."""
    queue.put((make_array(length), make_shared(length)))


def put_and_wait(queue: Any, gone: Any) -> None:
    queue.put(make_array(4))
    gone.wait()


def send_made(connection: Any, length: int) -> None:
    connection.send([make_array(length), make_shared(length)])
    connection.recv()


def answer_queue(questions: Any, answers: Any) -> None:
    array, handle = questions.get()
    array += 1
    answers.put(total(handle))


def answer_pipe(connection: Any) -> None:
    array, handle = connection.recv()
    array += 1
    connection.send(total(handle))


def answer_process(array: Any, handle: Any, nested: Any, answers: Any) -> None:
    array += 1
    nested["array"][0] += 1
    answers.put(total(handle))


def open_raw(source: Any) -> str:
    from plait.shared._segment import open_segment

    try:
        open_segment(source)
    except plait.OwnerDied as error:
        return str(error)
    return "opened"


def context(method: str) -> Any:
    return mp.get_context(method)
