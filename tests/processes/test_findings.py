"""What one worker has found to be so in all copies of its zygote, the next ones need not look for."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from plait.processes import _findings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunScript


def test_copies_of_a_process_know_what_one_of_them_has_found():
    findings = _findings.Findings()
    assert "os" in findings.modules
    statements = [os.urandom(size) for size in (0, 1, 12, 10_000)]
    assert not any(statement in findings for statement in statements)
    for statement in statements:
        if (pid := os.fork()) == 0:
            findings.add(statement)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert statement in findings, "each was found by another process"
    assert b"other" not in findings


def test_only_a_zygotes_workers_share_what_they_find():
    assert _findings.of_zygote() is None


PROGRAM = """
import os
import plait
from plait.auto import _reads
import helper

def look(message):
    looked, digest = [], _reads.digest
    _reads.digest = lambda value: looked.append(value) or digest(value)
    return os.getpid(), _reads.first_difference((message,), "helper"), looked

if __name__ == "__main__":
    pids = set()
    for helper.FACTOR in (1, 1, 2, 1):
        needs = _reads.Needs()
        needs.add([("helper", "FACTOR")])
        message = needs.message(first=True, anew=True, setting=_reads.setting_in(None))
        with plait.ProcessPool(1) as pool:
            pid, *found = pool.submit(look, message).result()
        pids.add(pid)
        print(*found, sep="|")
    assert len(pids) == 4
"""


def test_the_workers_of_a_zygote_look_once_and_see_what_was_set_since(run_script: RunScript, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("FACTOR = 1\n")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    assert run_script(PROGRAM, env=environment).stdout.splitlines() == [
        "|[1]",
        "|[]",
        "reads `FACTOR` of `helper`, which is not what it was when that was imported|[1]",
        "|[]",
    ]


UNPICKLED = """
import plait
import helper

class Told:
    def __init__(self):
        helper.TABLE["told"] = 1

    def __reduce__(self):
        return Told, ()

def look(given):
    sum(range(200_000))
    return helper.TABLE.get("told")

if __name__ == "__main__":
    for given in (Told(), None):
        with plait.Pool(models=["processes"]) as pool:
            found = {future.result() for future in [pool.submit(look, given) for _ in range(200)]}
        print(found)
"""


def test_what_unpickling_changes_in_a_worker_is_not_taken_to_be_so_in_others(
    run_script: RunScript, tmp_path: Path
) -> None:
    """Where the second pool's workers unpickle nothing of the kind, they have not what the program has."""
    (tmp_path / "helper.py").write_text("TABLE = {}\n")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    assert run_script(UNPICKLED, env=environment).stdout.splitlines() == ["{1}", "{1}"]
