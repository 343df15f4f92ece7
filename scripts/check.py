"""Every check of the project by name, the same for developers and for `.ci/run`.

    make test                       all of them
    make test CHECK="ruff pytest"   some of them
    make test CHECK=list            their names and commands

Checks run one after the other and go on after a failure. The output of each is kept in target/check/NAME.log, a table with
their seconds closes the run, and the exit code is 1 if any of them failed. Run by the interpreter of an environment that
scripts/setup.sh has made; that interpreter is the one the tests run on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
LIMIT = 1500.0  # seconds for one check: a hang must not cost the night
RETRIED = 5  # as many failed tests are run again alone; more are not bad luck


@dataclass(frozen=True)
class Check:
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)


def python(module: str, *arguments: str) -> list[str]:
    return [PYTHON, "-m", module, *arguments]


CHECKS = {
    "rustfmt": Check(["cargo", "fmt", "--all", "--check"]),
    "clippy": Check(["cargo", "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    # The binding's own test binary does not start without libpython: the binding is tested from Python.
    "rust": Check(["cargo", "test", "--workspace", "--exclude", "plait-py"]),
    # Every interleaving of the lock-free code. Another cfg for every crate, hence another target folder.
    "loom": Check(
        ["cargo", "test", "--release", "-p", "plait-shm", "-p", "plait-pool", "-p", "plait-reactor", "--test", "loom*"],
        {
            "RUSTFLAGS": "--cfg loom",
            "CARGO_TARGET_DIR": "target/loom",
            "CARGO_PROFILE_RELEASE_LTO": "off",
            "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
            "CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS": "true",
        },
    ),
    "ruff": Check(python("ruff", "check", ".")),
    "format": Check(python("ruff", "format", "--check", ".")),
    "mypy": Check(python("mypy")),
    "pyright": Check(python("pyright", "--pythonpath", PYTHON)),
    "verifytypes": Check(python("pyright", "--pythonpath", PYTHON, "--verifytypes", "plait", "--ignoreexternal")),
    # Lines of the allowlist have a reason each.
    "stubtest": Check(python("mypy.stubtest", "plait._core", "--allowlist", "tests/layout/stubtest-allowlist.txt")),
    "imports": Check([str(Path(PYTHON).parent / "lint-imports"), "--no-logo"]),
    "pytest": Check(python("pytest", "tests", "--ignore=tests/docs")),
    # All is correct without spinning: the slow road is the one that a busy machine takes.
    "nospin": Check(python("pytest", "tests/processes", "tests/sync", "tests/threads"), {"PLAIT_SPIN": "0"}),
    "docs": Check(python("pytest", "tests/docs")),
}


@dataclass
class Outcome:
    name: str
    seconds: float
    status: str  # ok, FAILED, or why it was ended
    passed: int
    failed: int
    skipped: int

    @property
    def good(self) -> bool:
        return self.status.startswith("ok")


def environment(check: Check, folder: Path) -> dict[str, str]:
    """This process's environment, with the interpreter that PyO3 builds for and cargo where rustup puts it.

    Runs on several interpreters at a time each remember by themselves which tests failed.
    """
    remembered = f"-o cache_dir={shlex.quote(str(folder.resolve() / 'pytest'))}"
    env = {**os.environ, "PYO3_PYTHON": PYTHON, "PYTEST_ADDOPTS": remembered, **check.env}
    cargo = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "bin"
    env["PATH"] = os.pathsep.join([str(Path(PYTHON).parent), env.get("PATH", os.defpath), str(cargo)])
    return env


def end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the check's process group, so that it can say where it was, then kill it."""
    for number, patience in ((signal.SIGINT, 10.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def run(name: str, check: Check, folder: Path) -> Outcome:
    """Run one check, showing its output as it comes.

    The output goes through a file rather than a pipe: a process that the check leaves behind cannot hold us up.
    """
    shown = " ".join([*(f"{key}={shlex.quote(value)}" for key, value in check.env.items()), shlex.join(check.command)])
    print(f"\n=== {name}: {shown.replace(PYTHON, 'python')}", flush=True)
    began = time.monotonic()
    status = ""
    log = folder / f"{name}.log"
    with log.open("wb") as written, log.open("rb") as read:

        def show() -> None:
            sys.stdout.write(read.read().decode(errors="replace"))
            sys.stdout.flush()

        try:
            process = subprocess.Popen(
                check.command,
                cwd=ROOT,
                env=environment(check, folder),
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        except OSError as error:
            return Outcome(name, 0.0, f"FAILED ({error})", 0, 1, 0)
        try:
            while process.poll() is None:
                if time.monotonic() - began > LIMIT:
                    status = f"FAILED (ended after {LIMIT:.0f} s)"
                    end(process)
                show()
                time.sleep(0.1)
        except BaseException:
            end(process)
            raise
        finally:
            show()
    passed, failed, skipped = counts(log.read_text(errors="replace"))
    if process.returncode or status:
        return Outcome(name, time.monotonic() - began, status or "FAILED", passed, failed or 1, skipped)
    return Outcome(name, time.monotonic() - began, "ok", passed or 1, failed, skipped)


def run_twice(name: str, check: Check, folder: Path) -> Outcome:
    """Run one check; the tests of it that failed once more, alone.

    Many tests kill processes at random moments, and machines are busy. A test that passes alone does not fail the run, but
    the table says how many there were, and the log which: each is to be looked into.
    """
    first = run(name, check, folder)
    if first.good or "pytest" not in check.command or not 0 < first.failed <= RETRIED:
        return first
    again = Check([*check.command, "--last-failed", "--last-failed-no-failures=none"], check.env)
    second = run(f"{name}-again", again, folder)
    seconds = first.seconds + second.seconds
    if not second.good:
        return Outcome(name, seconds, first.status, first.passed, first.failed, first.skipped)
    status = f"ok, {first.failed} only when run again alone"
    return Outcome(name, seconds, status, first.passed + second.passed, 0, first.skipped)


def counts(log: str) -> tuple[int, int, int]:
    """Tests passed, failed and skipped according to cargo's and pytest's own summaries; zeros for other tools."""
    totals = {"passed": 0, "failed": 0, "error": 0, "ignored": 0, "skipped": 0}
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    for line in re.findall(r"^test result: .*|^=+ .*\d+ (?:passed|failed|error|skipped).*=+$", plain, re.MULTILINE):
        for number, word in re.findall(r"(\d+) (passed|failed|error|ignored|skipped)", line):
            totals[word] += int(number)
    return totals["passed"], totals["failed"] + totals["error"], totals["ignored"] + totals["skipped"]


def table(outcomes: list[Outcome]) -> str:
    lines = ["", f"{'check':<14}{'seconds':>8}{'passed':>9}{'failed':>8}{'skipped':>9}  status"]
    lines += [
        f"{each.name:<14}{each.seconds:>8.1f}{each.passed:>9}{each.failed:>8}{each.skipped:>9}  {each.status}"
        for each in outcomes
    ]
    bad = [each.name for each in outcomes if not each.good]
    total = sum(each.seconds for each in outcomes)
    lines.append(f"{'all':<14}{total:>8.1f}  " + (f"FAILED: {', '.join(bad)}" if bad else "ok"))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the project's checks by name.")
    parser.add_argument("checks", nargs="*", metavar="NAME", help="all of them by default; `list` names them")
    parser.add_argument("--results", type=Path, default=ROOT / "target" / "check", help="folder for logs and totals")
    arguments = parser.parse_args()
    if arguments.checks == ["list"]:
        for name, check in CHECKS.items():
            print(f"{name:<12} {shlex.join(check.command).replace(PYTHON, 'python')}")
        return 0
    if unknown := [name for name in arguments.checks if name not in CHECKS]:
        parser.error(f"no such check: {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    arguments.results.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    try:
        outcomes.extend(run_twice(name, CHECKS[name], arguments.results) for name in arguments.checks or CHECKS)
    finally:
        print(table(outcomes), flush=True)
        totals = {what: sum(getattr(each, what) for each in outcomes) for what in ("passed", "failed", "skipped")}
        (arguments.results / "totals.json").write_text(json.dumps(totals))
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
