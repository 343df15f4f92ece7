"""The main module is prepared once, in a zygote, and each worker is as if it had imported it; or else each does import it."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from tests.processes._support import SLACK, Case, alive, descendants, gone, wait_until

BEGIN = """
import os, sys, threading, time
import plait
from pathlib import Path

HERE = Path(__file__).parent
if __name__ != "__main__":
    with open(HERE / "imports", "a") as file:
        file.write(f"{os.getpid()} {os.getppid()}\\n")
"""

MEET = """
def meet(count, name="met"):
    # Returns when `count` workers are here, so each of them has one of these tasks.
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    while len(os.listdir(folder)) < count:
        time.sleep(0.002)
    return os.getpid()
"""


class Program(Case):
    """A script with modules beside it."""

    def __init__(self, folder: Path, script: str, *, way: str = "file", **files: str):
        folder.mkdir(exist_ok=True)
        for name, text in {"script": script, **files}.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        self.here = folder
        command = {"file": [str(folder / "script.py")], "-c": ["-c", textwrap.dedent(script)]}[way]
        environment = {"PYTHONPATH": str(folder), "PYTHONUNBUFFERED": None}
        super().__init__(folder / "run", [sys.executable, *command], env=environment)

    def imports(self, name: str = "imports") -> list[list[int]]:
        """The process and its parent, of each import."""
        path = self.here / name
        return [[int(word) for word in line.split()] for line in path.read_text().splitlines()] if path.exists() else []


def run(folder: Path, script: str, **options: str) -> Program:
    """Run a program to its end."""
    with Program(folder, script, **options) as program:
        program.check()
        return program


def test_workers_and_pools_share_one_import_of_the_main_module(tmp_path):
    program = run(
        tmp_path,
        BEGIN
        + MEET
        + """
if __name__ == "__main__":
    for turn in range(2):
        with plait.ProcessPool(3) as pool:
            pids = {f.result() for f in [pool.submit(meet, 3, f"met{turn}") for _ in range(3)]}
            assert len(pids) == 3
    print("done")
""",
    )
    assert program.output() == "done\n"
    assert len(program.imports()) == 1


def test_the_module_of_the_first_task_is_imported_once_too(tmp_path):
    program = run(
        tmp_path,
        """
        import plait, beside
        with plait.ProcessPool(3) as pool:
            assert len({f.result() for f in [pool.submit(beside.meet, 3) for _ in range(3)]}) == 3
        """,
        way="-c",
        beside=BEGIN.replace("__main__", "") + MEET,
    )
    pids = program.imports()
    assert len(pids) == 2, "the program itself, and one for all workers"


@pytest.mark.parametrize("way", ["file", "-c"])
def test_a_server_that_runs_is_told_what_to_import_for_workers_to_come(way, tmp_path):
    """Neither it, nor the zygote that has prepared the main module, is asked to start anew."""
    program = run(
        tmp_path,
        """
        import os, sys, plait, beside
        from plait.processes import _ahead

        def there(_):
            return os.getppid(), "ahead" in sys.modules

        if __name__ == "__main__":
            where = there if "-c" not in sys.orig_argv else beside.there
            with plait.ProcessPool(1) as pool:
                server, known = pool.submit(where, 0).result()
                assert not known
                _ahead.import_ahead("ahead")
                with plait.ProcessPool(2) as other:
                    assert (found := set(other.map(where, range(4), chunksize=1))) == {(server, True)}, (server, found)
            print("done")
        """,
        way=way,
        beside="import os, sys\n\ndef there(_):\n    return os.getppid(), 'ahead' in sys.modules\n",
        ahead="""
        import os, pathlib
        with open(pathlib.Path(__file__).parent / "imports", "a") as file:
            print(os.getpid(), os.getppid(), file=file)
        """,
    )
    assert program.output() == "done\n"
    assert len(program.imports()) == 2, "the server, and the zygote"


def test_a_worker_looks_as_if_it_had_imported_the_main_module_itself(tmp_path):
    program = run(
        tmp_path,
        BEGIN
        + """
import atexit, multiprocessing
PARENT = multiprocessing.parent_process()
INPUT = sys.stdin.read() if __name__ != "__main__" else ""
def at_exit():
    with open(HERE / "exits", "a") as file:
        file.write(f"{os.getpid()} 0\\n")
if __name__ != "__main__":
    atexit.register(at_exit)
    print("once,", end=" ")  # in the buffer when workers are forked
"""
        + MEET
        + """
def look():
    process = multiprocessing.current_process()
    return PARENT.pid, process.name, process._identity, INPUT, sys.argv, os.getcwd(), __name__
if __name__ == "__main__":
    with plait.ProcessPool(2) as pool:
        for f in [pool.submit(meet, 2) for _ in range(2)]:
            f.result()
        about = pool.submit(look).result()
        assert about[0] == os.getpid()
        assert about[1] in ("ProcessPool-1-worker-0", "ProcessPool-1-worker-1"), about
        assert about[2] in ((1,), (2,))
        assert about[3:] == ("", sys.argv, os.getcwd(), "__mp_main__"), about
    print("done")
""",
    )
    assert program.output() == "once, done\n"
    assert len(program.imports("exits")) == 2
    assert len(program.imports()) == 1


NOT_TO_BE_SHARED = {
    "thread": "threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()",
    "file": "kept = open(HERE / 'log', 'a')",
    "socket": "import socket; kept = socket.socketpair()",
    "pool of threads": "kept = plait.ThreadPool(1)",
    "child": "import subprocess; kept = subprocess.Popen(['sleep', '1'])",
    "handler": "import signal; signal.signal(signal.SIGUSR1, lambda *_: None)",
    "timer": "import signal; signal.setitimer(signal.ITIMER_VIRTUAL, 1000)",
    "memory": "import mmap; kept = mmap.mmap(-1, 4096)",
    "seed": "import random; random.seed(1)",
    "generator": "import random; kept = [random.Random()]",
    "numpy seed": "import numpy; numpy.random.seed(1)",
    "numpy generator": "import numpy; kept = [numpy.random.default_rng()]",
    "numpy state": "import numpy; kept = [numpy.random.RandomState()]",
}


@pytest.mark.parametrize("what", NOT_TO_BE_SHARED)
def test_what_must_not_be_shared_is_imported_by_each_worker(what, tmp_path):
    if what.startswith("numpy"):
        pytest.importorskip("numpy")
    program = run(
        tmp_path,
        BEGIN
        + "import random\n"
        + f'if __name__ != "__main__":\n    {NOT_TO_BE_SHARED[what]}\n'
        + MEET
        + """
if __name__ == "__main__":
    for turn in range(2):
        with plait.ProcessPool(3) as pool:
            for f in [pool.submit(meet, 3, f"met{turn}") for _ in range(3)]:
                f.result()
""",
    )
    assert len({pid for pid, _ in program.imports()}) == len(program.imports()) == 6


SHARED = {
    "nothing": "",
    "numpy": "import numpy",  # its BLAS has threads, and may be forked
    "ended thread": "t = threading.Thread(target=int); t.start(); t.join()",
    "closed file": "open(HERE / 'log', 'a').close()",
    "libraries": "import asyncio, tempfile, uuid, secrets, logging, sqlite3, concurrent.futures",
}


@pytest.mark.parametrize("what", SHARED)
def test_what_may_be_shared_is(what, tmp_path):
    if what == "numpy":
        pytest.importorskip("numpy")
    program = run(
        tmp_path,
        BEGIN
        + SHARED[what]
        + MEET
        + """
if __name__ == "__main__":
    with plait.ProcessPool(2) as pool:
        for f in [pool.submit(meet, 2) for _ in range(2)]:
            f.result()
""",
    )
    assert len(program.imports()) == 1


def test_workers_draw_different_random_numbers(tmp_path):
    pytest.importorskip("numpy")
    program = run(
        tmp_path,
        BEGIN
        + "import random, numpy\n"
        + MEET
        + """
def draw():
    meet(3)
    return random.random(), numpy.random.random()
if __name__ == "__main__":
    with plait.ProcessPool(3) as pool:
        drawn = [f.result() for f in [pool.submit(draw) for _ in range(3)]]
    assert all(len(set(numbers)) == 3 for numbers in zip(*drawn)), drawn
""",
    )
    assert len(program.imports()) == 1


@pytest.mark.parametrize("module", ["random", "numpy.random"])
def test_workers_draw_the_numbers_of_the_main_modules_seed(module, tmp_path):
    pytest.importorskip(module)
    run(
        tmp_path,
        BEGIN
        + f"import {module} as source\nsource.seed(5)\n"
        + MEET
        + """
def draw():
    meet(3)
    return source.random()
if __name__ == "__main__":
    with plait.ProcessPool(3) as pool:
        drawn = [f.result() for f in [pool.submit(draw) for _ in range(3)]]
    assert set(drawn) == {source.random()}, drawn
""",
    )


def test_folder_and_environment_are_those_of_the_pools_beginning(tmp_path):
    program = run(
        tmp_path,
        BEGIN
        + """
SEEN = os.getcwd(), os.environ.get("COLOUR"), list(sys.path)
def look():
    return SEEN, (os.getcwd(), os.environ.get("COLOUR"), list(sys.path))
if __name__ == "__main__":
    os.mkdir("below")
    for colour, folder, entry in (("red", ".", "a"), ("blue", "below", "a"), ("blue", ".", "b")):
        os.environ["COLOUR"] = colour
        os.chdir(folder)
        sys.path.append(entry)
        with plait.ProcessPool(1) as pool:
            seen, now = pool.submit(look).result()
            assert now == (os.getcwd(), colour, sys.path), now
            assert seen == now
""",
    )
    assert len(program.imports()) == 3


def test_many_environments_leave_nothing_behind(tmp_path):
    run(
        tmp_path,
        BEGIN
        + """
from plait.processes import _launch
def look():
    return os.environ["TURN"]
if __name__ == "__main__":
    counts = []
    for turn in range(12):
        os.environ["TURN"] = str(turn)
        with plait.ProcessPool(1) as pool:
            assert pool.submit(look).result() == str(turn)
        server = _launch._servers[()].process.pid
        counts.append((len(os.listdir(f"/proc/{server}/fd")), len(os.listdir("/proc/self/fd"))))
    of_server, of_program = zip(*counts)
    assert max(of_server[6:]) <= max(of_server[:6]), counts
    assert min(of_program[6:]) <= min(of_program[:6]), counts
""",
    )


def test_workers_have_no_descriptors_of_others(tmp_path):
    run(
        tmp_path,
        BEGIN
        + """
def files():
    return [os.readlink(path) for fd in os.listdir("/proc/self/fd") if os.path.exists(path := f"/proc/self/fd/{fd}")]
if __name__ == "__main__":
    with plait.ProcessPool(1) as first:
        alone = first.submit(files).result()
        assert not any("socket" in file for file in alone), alone
        others = [plait.ProcessPool(2) for _ in range(4)]
        for other in others:
            assert len(other.submit(files).result()) == len(alone)
        with plait.ProcessPool(1) as last:
            assert len(last.submit(files).result()) == len(alone)
        for other in others:
            other.shutdown()
""",
    )


@pytest.mark.parametrize("fit", [True, False])
def test_what_a_task_executes_inherits_no_descriptors(fit, tmp_path):
    run(
        tmp_path,
        BEGIN
        + ("" if fit else "threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n")
        + """
def inherited():
    import subprocess
    command = [sys.executable, "-c", "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))"]
    return subprocess.check_output(command, close_fds=False, text=True)
if __name__ == "__main__":
    with plait.ProcessPool(1) as pool:
        for _ in range(2):
            assert pool.submit(inherited).result() == "[0, 1, 2, 3]\\n"
            os.kill(pool.submit(os.getpid).result(), 9)  # the next is forked by the server where the main module is unfit
""",
    )


def test_the_death_of_a_server_with_many_workers_to_start_breaks_no_pool(tmp_path):
    run(
        tmp_path,
        BEGIN
        + """
from plait.processes import _launch
if __name__ != "__main__":
    while not (HERE / "go").exists():
        time.sleep(0.01)
def square(x):
    return x * x
if __name__ == "__main__":
    pool = plait.ProcessPool(8)
    futures = [pool.submit(square, n) for n in range(8)]
    while not (HERE / "imports").exists():
        time.sleep(0.01)
    os.kill(_launch._servers[()].process.pid, 9)
    (HERE / "go").touch()
    assert [future.result() for future in futures] == [n * n for n in range(8)]
    pool.shutdown()
""",
    )


@pytest.mark.parametrize("victim", ["zygote", "server"])
def test_a_worker_that_was_reported_and_has_no_seat_yet_dies_with_its_server_and_is_replaced(victim, tmp_path):
    # The main module is prepared, the worker is forked and known, and then stays where it is.
    late = """
import os, time
from plait.processes import _worker
become = _worker._become_another
def stay_or_become(*arguments):
    while not os.path.exists(GO):
        time.sleep(0.01)
    become(*arguments)
_worker._become_another = stay_or_become
"""
    run(
        tmp_path,
        SERVED
        + f"""
if __name__ == "__main__":
    from plait.processes import _launch
    go = HERE / "go"
    _launch.RUN_MAIN = {late!r}.replace("GO", repr(str(go))) + _launch.RUN_MAIN
    with plait.ProcessPool(1) as pool:
        future = pool.submit(square, 3)
        while not pool._pids():
            time.sleep(0.002)
        [worker] = pool._pids()
        server = _launch._servers[()].process.pid
        with open(f"/proc/{{worker}}/stat") as file:
            zygote = int(file.read().rpartition(")")[2].split()[1])
        assert zygote != server
        os.kill({victim}, 9)
        while pool._pids() == [worker] and not future.done() and os.path.exists(f"/proc/{{worker}}"):
            time.sleep(0.002)
        go.touch()
        assert future.result(50) == 9
        assert worker not in pool._pids()
""",
    )


def test_many_pools_may_wait_for_their_main_module(tmp_path):
    run(
        tmp_path,
        BEGIN
        + """
import resource
if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2048), hard))
else:
    while not (HERE / "go").exists():
        time.sleep(0.01)
LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)
def limit():
    return resource.getrlimit(resource.RLIMIT_NOFILE)
if __name__ == "__main__":
    pools = [plait.ProcessPool(16) for _ in range(20)]
    futures = [pool.submit(limit) for pool in pools for _ in range(16)]
    requests = lambda pool: pool.statistics()["workers"] == 16
    while not all(map(requests, pools)):
        time.sleep(0.01)
    (HERE / "go").touch()
    assert {future.result() for future in futures} == {LIMIT}
    for pool in pools:
        pool.shutdown()
""",
    )


# What goes wrong in the main module, if the environment says so.
TROUBLE = (
    BEGIN
    + """
if __name__ != "__main__" and os.environ.get("TROUBLE"):
    TROUBLE_HERE
def square(x):
    return x * x
def use(word):
    os.environ["TROUBLE"] = word
    return plait.ProcessPool(2)
"""
)


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        ("raise ValueError('not twice')", "BrokenProcessPool"),
        ("sys.exit(3)", "BrokenProcessPool"),
        ("os._exit(3)", "WorkerDied"),
        ("os.kill(os.getpid(), 11)", "WorkerDied"),
    ],
    ids=["raises", "exits", "leaves", "crashes"],
)
def test_a_main_module_that_fails_does_so_for_its_pool_alone(trouble, error, tmp_path):
    program = run(
        tmp_path,
        TROUBLE.replace("TROUBLE_HERE", trouble)
        + f"""
if __name__ == "__main__":
    with use("") as good:
        assert good.submit(square, 3).result() == 9
        bad = use("yes")
        errors = [f.exception(50) for f in [bad.submit(square, i) for i in range(4)]]
        assert all(isinstance(error, plait.errors.BrokenProcessPool) for error in errors), errors
        assert any(type(error).__name__ == {error!r} or {error!r} == "BrokenProcessPool" for error in errors), errors
        assert good.submit(square, 4).result() == 16
        bad.shutdown()
        with use("") as again:
            assert again.submit(square, 5).result() == 25
""",
    )
    assert ("not twice" in program.errors()) == ("not twice" in trouble)


@pytest.mark.parametrize("how", ["kill_workers", "terminate_workers", "Ctrl-C"])
def test_a_main_module_that_hangs_does_so_for_its_pool_alone(how, tmp_path):
    run(
        tmp_path,
        TROUBLE.replace("TROUBLE_HERE", "time.sleep(3600)")
        + f"""
if __name__ == "__main__":
    with use("") as good:
        bad = use("yes")
        stuck = [bad.submit(square, i) for i in range(40)]
        assert good.submit(square, 4).result() == 16
        while not (HERE / "imports").exists() or len((HERE / "imports").read_text().splitlines()) < 2:
            time.sleep(0.01)
        assert not any(f.done() for f in stuck)
        if {how!r} == "Ctrl-C":
            try:
                with bad:
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                pass
        else:
            getattr(bad, {how!r})()
            bad.shutdown()
        assert all(f.cancelled() for f in stuck), stuck
        assert good.submit(square, 5).result() == 25
""",
    )


SERVED = (
    BEGIN
    + """
def square(x):
    return x * x
def parent():
    return os.getppid()
def hang(name):
    (HERE / name).touch()
    time.sleep(3600)
"""
)


def test_a_zygote_leaves_when_it_is_not_needed_and_is_made_again(tmp_path):
    program = run(
        tmp_path,
        SERVED
        + """
if __name__ == "__main__":
    from plait.processes import _launch
    _launch.RUN_MAIN = "from plait.processes import _zygote; _zygote.LINGER = 0.2; " + _launch.RUN_MAIN
    for _ in range(2):
        with plait.ProcessPool(1) as pool:
            zygote = pool.submit(parent).result()
        while os.path.exists(f"/proc/{zygote}"):
            time.sleep(0.01)
""",
    )
    assert len(program.imports()) == 2


def test_a_later_pool_finds_it_imported_also_when_the_default_start_method_is_decided_meanwhile(tmp_path):
    program = run(
        tmp_path,
        SERVED
        + """
if __name__ == "__main__":
    import multiprocessing
    for turn in range(2):
        with plait.ProcessPool(1) as pool:
            assert pool.submit(square, 3).result() == 9
        multiprocessing.get_start_method()
        time.sleep(1.5 if turn == 0 else 0)
""",
    )
    assert len(program.imports()) == 1


def test_workers_have_the_code_of_a_module_that_was_changed_and_loaded_again(tmp_path):
    run(
        tmp_path,
        SERVED
        + """
if __name__ == "__main__":
    import importlib, pathlib, sys
    path = pathlib.Path("changes.py")
    sys.path.insert(0, str(pathlib.Path.cwd()))
    sys.dont_write_bytecode = True
    for turn in range(3):
        path.write_text(f"def turn():\\n    return {turn}\\n")
        os.utime(path, ns=(2 * 10**18 + turn, 2 * 10**18 + turn))
        changes = importlib.reload(changes) if turn else importlib.import_module("changes")
        for _ in range(2):
            with plait.ProcessPool(1) as pool:
                assert pool.submit(changes.turn).result() == turn
""",
    )


def test_pools_that_come_as_a_zygote_leaves_lose_nothing(tmp_path):
    run(
        tmp_path,
        SERVED
        + """
if __name__ == "__main__":
    from plait.processes import _launch
    _launch.RUN_MAIN = "from plait.processes import _zygote; _zygote.LINGER = 0.0005; " + _launch.RUN_MAIN
    for turn in range(150):
        with plait.ProcessPool(1) as pool:
            assert pool.submit(square, turn).result() == turn * turn
        time.sleep(turn % 10 / 2000)
""",
    )


def test_a_zygote_that_is_killed_takes_only_what_ran_and_is_replaced(tmp_path):
    run(
        tmp_path,
        SERVED
        + """
if __name__ == "__main__":
    import signal
    with plait.ProcessPool(2) as pool, plait.ProcessPool(1) as other:
        zygote = pool.submit(parent).result()
        assert other.submit(parent).result() == zygote
        running = pool.submit(hang, "hangs")
        while not (HERE / "hangs").exists():
            time.sleep(0.002)
        queued = [pool.options(retries=3).submit(square, i) for i in range(20)]
        os.kill(zygote, signal.SIGKILL)
        assert isinstance(running.exception(50), plait.WorkerDied)
        assert [f.result(50) for f in queued] == [i * i for i in range(20)]
        assert pool.submit(parent).result() not in (zygote, os.getpid())
        assert other.submit(square, 3).result() == 9
""",
    )


@pytest.mark.parametrize("victims", ["zygote", "server", "both"])
def test_random_kills_of_zygotes_and_servers_lose_nothing(victims, tmp_path):
    run(
        tmp_path,
        SERVED
        + f"""
def work(i):
    time.sleep(0.002)
    return i
if __name__ == "__main__":
    import concurrent.futures.process, random, signal
    from plait.processes import _launch
    kills = 0
    with plait.ProcessPool(2, retries=1000) as pool:
        stop = threading.Event()
        def kill():
            global kills
            while not stop.wait(random.choice((0.02, 0.1, 0.3))):
                server = _launch._servers.get(())
                victim = 0 if server is None else server.process.pid
                if {victims!r} == "zygote" or {victims!r} == "both" and random.random() < 0.5:
                    try:
                        with open(f"/proc/{{victim}}/task/{{victim}}/children") as file:
                            victim = int(random.choice(file.read().split() or "0"))
                    except OSError:
                        continue
                if victim:
                    try:
                        os.kill(victim, signal.SIGKILL)
                        kills += 1
                    except ProcessLookupError:
                        pass
        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        while kills < 12:
            futures = [pool.submit(work, i) for i in range(30)]
            for i, future in enumerate(futures):
                try:
                    number = future.result(100)
                except concurrent.futures.process.BrokenProcessPool:
                    assert {victims!r} != "zygote"  # one that cannot be had any more is no reason to wait
                    continue
                assert number == i
        stop.set()
        killer.join()
        assert pool.submit(square, 3).result() == 9
""",
    )


@pytest.mark.parametrize("stage", ["preparing", "serving"])
def test_the_programs_death_ends_zygotes_within_a_second(stage, tmp_path):
    script = SERVED.replace(
        "def square", "if __name__ != '__main__' and os.environ.get('SLOW'): time.sleep(3600)\ndef square"
    )
    with Program(
        tmp_path,
        script
        + f"""
if __name__ == "__main__":
    if {stage!r} == "preparing":
        os.environ["SLOW"] = "1"
    pool = plait.ProcessPool(2)
    for name in ("one", "two"):
        pool.submit(hang, name)
    print(os.getpid(), flush=True)
    time.sleep(3600)
""",
    ) as program:
        if stage == "preparing":
            wait_until(program.imports)
        else:
            wait_until(lambda: (tmp_path / "one").exists() and (tmp_path / "two").exists())
        pid = int(program.output())
        below = [process.pid for process in descendants(pid)]
        assert len(below) == (2 if stage == "preparing" else 4)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid))
        wait_until(lambda: gone(below), timeout=1 + SLACK)


def test_ctrl_c_does_not_wait_for_a_module_that_hangs_in_the_server(tmp_path):
    program = run(
        tmp_path,
        """
import os, signal, threading, time
import plait
if __name__ == "__main__":
    main = threading.main_thread().ident
    threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT)).start()
    try:
        with plait.ProcessPool(1, preload=["hangs"]) as pool:
            pool.submit(abs, -1).result()
    except KeyboardInterrupt:
        print("interrupted")
""",
        hangs="import time; time.sleep(3600)",
    )
    assert program.output() == "interrupted\n"


def test_modules_to_preload_and_the_main_module_are_imported_once_each(tmp_path):
    program = run(
        tmp_path,
        BEGIN
        + MEET
        + """
def count(name):
    meet(2, name)
    return "ahead" in sys.modules
if __name__ == "__main__":
    for turn in range(2):
        with plait.ProcessPool(2, preload=["ahead"]) as pool, plait.ProcessPool(2) as other:
            assert [f.result() for f in [pool.submit(count, f"one{turn}") for _ in range(2)]] == [True, True]
            assert [f.result() for f in [other.submit(count, f"two{turn}") for _ in range(2)]] == [False, False]
""",
        ahead=BEGIN.replace("__main__", "").replace('"imports"', '"preloaded"'),
    )
    assert len(program.imports("preloaded")) == 1
    assert len(program.imports()) == 2, "each of the two servers has it"


def test_a_program_may_have_pools_of_several_main_modules(tmp_path):
    run(
        tmp_path,
        """
import sys, types
from pathlib import Path
import plait
def pool_of(name):
    main = types.ModuleType("__main__")
    main.__file__ = str(Path(__file__).parent / f"{name}.py")
    exec(compile(Path(main.__file__).read_text(), main.__file__, "exec"), main.__dict__)
    sys.modules["__main__"] = main
    pool = plait.ProcessPool(1)
    assert pool.submit(main.colour).result() == name
    return pool
if __name__ == "__main__":
    pools = [pool_of(name) for name in ("red", "blue", "red")]
    for pool in pools:
        pool.shutdown()
""",
        red="def colour():\n    return 'red'\n",
        blue="def colour():\n    return 'blue'\n",
    )


def test_more_workers_than_are_asked_for_at_a_time_all_start(tmp_path):
    program = run(
        tmp_path,
        BEGIN
        + MEET
        + """
if __name__ == "__main__":
    with plait.ProcessPool(40) as pool:
        assert len({f.result() for f in [pool.submit(meet, 40) for _ in range(40)]}) == 40
""",
    )
    assert len(program.imports()) == 1
