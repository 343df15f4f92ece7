"""A library of documents, made in three ways: one call after the other, with executors picked by hand, with `plait.Pool`.

    make demo
    run.py --documents 1000     more of the standard library's sources
    run.py --page FILE          where the profile of the pool's run goes (target/demo/profile.html)
    run.py --write-readme       store result.json here, and show it at the top of README.md

Documents are fetched from a server (waits), indexed (computes in Python), hashed and compressed (computes in C, without the
GIL) and stored in SQLite (waits for the disk). The three databases must be equal. Each way starts what it needs, and its stages
run one after the other, so that they can be compared. The profile is of another run of the pool: looking at it costs a little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import sysconfig
import tempfile
import time
import urllib.parse
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started from anywhere

import plait
from examples.demo.server import FARTHEST, NEAREST, serving
from examples.demo.stages import Document, longest_functions, stored
from examples.demo.table import page_with, table
from examples.demo.ways import Laps, Way, by_hand, serially, with_pool

ROOT = Path(__file__).resolve().parents[2]
WAYS: dict[str, Way] = {"serially": serially, "by hand": by_hand, "plait.Pool": with_pool}
RESULT = Path(__file__).with_name("result.json")


def standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib")).resolve()


def documents_of(folder: Path, count: int) -> list[str]:
    """Paths of Python files that lie below `folder`, spread evenly over all but tests and what was installed."""
    found: list[str] = []
    whole = folder.resolve()
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - {"site-packages", "dist-packages", "__pycache__", "test", "tests"})
        paths = [Path(here, name) for name in sorted(names) if name.endswith(".py")]
        # The server gives nothing away that lies elsewhere.
        found += [str(path.relative_to(folder)) for path in paths if path.resolve().is_relative_to(whole)]
    count = min(count, len(found))
    return [found[number * len(found) // count] for number in range(count)]


def run(folder: Path, paths: list[str], page: Path) -> tuple[dict[str, Any], dict[str, list[Document]]]:
    """Run all ways, and the last again under a profile; figures, and what the databases have."""
    ways: dict[str, Any] = {}
    databases: dict[str, list[Document]] = {}
    with serving(folder) as address, tempfile.TemporaryDirectory(prefix="plait-demo-") as scratch:
        urls = [f"{address}/{urllib.parse.quote(path)}" for path in paths]
        for name, way in WAYS.items():
            print(f"{name} ...", file=sys.stderr, flush=True)
            database = os.path.join(scratch, f"{len(ways)}.sqlite")
            laps, began = Laps(), time.perf_counter()
            explained = way(urls, database, laps)
            ways[name] = {"total": time.perf_counter() - began, "stages": laps.seconds, "explained": explained}
            databases[name] = stored(database)
        print("plait.Pool again, with a profile ...", file=sys.stderr, flush=True)
        with plait.profile() as profile:
            with_pool(urls, os.path.join(scratch, "profiled.sqlite"), Laps())
    page.parent.mkdir(parents=True, exist_ok=True)
    profile.to_html(page)
    figures = {
        "documents": len(paths),
        "bytes": sum((folder / path).stat().st_size for path in paths),
        "packed": sum(len(document.packed) for document in databases["serially"]),
        "delay": [NEAREST, FARTHEST],
        "ways": ways,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "plait": plait.__version__,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    return figures, databases


def report(result: dict[str, Any], databases: dict[str, list[Document]], page: Path) -> str:
    lines = [*table(result), "", f"All {len(databases)} databases are equal. The longest functions in them:"]
    for function, url in longest_functions(databases["serially"], 3):
        place = f"{urllib.parse.unquote(urllib.parse.urlsplit(url).path).lstrip('/')}:{function.line}"
        lines.append(f"  {function.lines:>4} lines  {function.name}  {place}")
    lines += ["", "What plait.Pool says of the functions (pool.explain):"]
    for explained in result["ways"]["plait.Pool"]["explained"].values():
        lines += [f"  {line}" for line in str(explained).splitlines()]
    shown = os.path.relpath(page) if page.is_relative_to(Path.cwd()) else page
    lines += ["", f"Where the time of a run with plait.Pool went: {shown}"]
    return "\n".join(lines)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a library of documents in three ways and compare them.")
    parser.add_argument("--folder", type=Path, help="whose Python files are served; default: the standard library")
    parser.add_argument("--documents", type=positive, default=450, help="default: %(default)s")
    parser.add_argument(
        "--page", type=Path, default=ROOT / "target" / "demo" / "profile.html", help="default: %(default)s"
    )
    parser.add_argument("--write-readme", action="store_true", help="store the result, and show it in README.md")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    folder = (options.folder or standard_library()).resolve()
    if not folder.is_dir():
        print(f"demo: no such folder: {folder}", file=sys.stderr)
        return 2
    paths = documents_of(folder, options.documents)
    if not paths:
        print(f"demo: no Python files in {folder}", file=sys.stderr)
        return 2
    page = options.page.resolve()
    result, databases = run(folder, paths, page)
    different = [name for name, documents in databases.items() if documents != databases["serially"]]
    if different:
        print(f"demo: not what the serial run made: {', '.join(different)}", file=sys.stderr)
        return 1
    print(report(result, databases, page))
    if options.write_readme:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        readme = ROOT / "README.md"
        readme.write_text(page_with(readme.read_text(), result))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C: nothing is left behind
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
