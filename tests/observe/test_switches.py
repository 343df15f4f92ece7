"""Programs that switch between threads all the time: what the kernel tells of it must not be lost in silence."""

from __future__ import annotations

from pathlib import Path

from tests.observe.test_names import profiled

HANDS_OVER = """
import queue, threading, time
pipe, end = queue.Queue(4), time.monotonic() + 1.5
def puts():
    while time.monotonic() < end:
        pipe.put(1)
def takes():
    while pipe.get():
        pass
threads = [threading.Thread(target=each) for each in (puts, takes) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads[:3]:
    thread.join()
for _ in range(3):
    pipe.put(0)
for thread in threads[3:]:
    thread.join()
"""


def test_where_records_of_switches_are_lost_nothing_is_called_exact_that_comes_of_them(tmp_path: Path) -> None:
    program = tmp_path / "hands_over.py"
    program.write_text(HANDS_OVER)
    ran, report = profiled(tmp_path, str(program))
    assert ran.returncode == 0, ran.stderr
    exact = {method["what"]: method["exact"] for method in report["methods"]}
    assert report["overhead"]["lost_records"] == 0 or not exact["switches"]
    for thread in report["threads"]:  # no thread of it ever sleeps with the GIL
        assert thread["gil_held_off_cpu"] < 0.1 * thread["wall"]
