"""Index Python source: in one process, with ProcessPoolExecutor and with plait, and compare.

    python examples/index_source.py                 the standard library of this interpreter
    python examples/index_source.py FOLDER          another folder
    python examples/index_source.py --workers 4

Every file is tokenised to count its identifiers and parsed to find its longest functions. Files that are not valid Python
(the standard library has some, as test data) are counted as skipped, in all three ways alike. The three results must be equal.
"""

from __future__ import annotations

import argparse
import ast
import collections
import concurrent.futures
import io
import keyword
import os
import sys
import sysconfig
import time
import tokenize
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import plait


class Function(NamedTuple):
    lines: int
    name: str
    path: str
    line: int


class FileIndex(NamedTuple):
    lines: int
    identifiers: dict[str, int]
    functions: list[Function]  # the longest ten
    skipped: bool


class Index(NamedTuple):
    files: int
    skipped: int
    lines: int
    identifiers: collections.Counter[str]
    functions: list[Function]


def index_file(path: str) -> FileIndex:
    """The work for one file. Workers import this module and call it."""
    try:
        source = Path(path).read_bytes()
        tokens = tokenize.tokenize(io.BytesIO(source).readline)
        names = [token.string for token in tokens if token.type == tokenize.NAME]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd escapes in the files that we read
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, tokenize.TokenError, RecursionError, MemoryError):
        return FileIndex(0, {}, [], skipped=True)
    identifiers = collections.Counter(name for name in names if not keyword.iskeyword(name))
    longest = sorted(functions_of(tree, path), reverse=True)[:10]
    return FileIndex(source.count(b"\n"), dict(identifiers), longest, skipped=False)


def functions_of(tree: ast.AST, path: str) -> Iterable[Function]:
    waiting = [(tree, "")]
    while waiting:
        node, prefix = waiting.pop()
        inner = prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{prefix}{node.name}."
            if not isinstance(node, ast.ClassDef) and node.end_lineno is not None:
                yield Function(node.end_lineno - node.lineno + 1, prefix + node.name, path, node.lineno)
        waiting.extend((child, inner) for child in ast.iter_child_nodes(node))


def merge(files: Iterable[FileIndex]) -> Index:
    count = skipped = lines = 0
    identifiers: collections.Counter[str] = collections.Counter()
    functions: list[Function] = []
    for file in files:
        count += 1
        skipped += file.skipped
        lines += file.lines
        identifiers.update(file.identifiers)
        functions.extend(file.functions)
    return Index(count, skipped, lines, identifiers, sorted(functions, reverse=True)[:10])


def serially(paths: list[str], workers: int) -> Index:
    return merge(map(index_file, paths))


def with_executor(paths: list[str], workers: int) -> Index:
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        return merge(pool.map(index_file, paths))


def with_plait(paths: list[str], workers: int) -> Index:
    with plait.ProcessPool(workers) as pool:
        return merge(pool.map(index_file, paths, progress=True))


def python_files(folder: Path) -> list[str]:
    """All .py files below `folder`, except what was installed into it."""
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - {"site-packages", "dist-packages", "__pycache__"})
        found += [os.path.join(here, name) for name in sorted(names) if name.endswith(".py")]
    return found


def timed(name: str, index: Callable[[list[str], int], Index], paths: list[str], workers: int) -> tuple[float, Index]:
    print(f"{name} ...", file=sys.stderr, flush=True)
    began = time.perf_counter()
    result = index(paths, workers)
    return time.perf_counter() - began, result


def show(index: Index, folder: Path) -> None:
    print(f"{index.files} files, {index.lines:,} lines, {index.skipped} skipped (not valid Python)\n")
    print("most used identifiers")
    entries = [f"{name[:17]:<17}{count:>8,}" for name, count in index.identifiers.most_common(12)]
    for row in range(0, len(entries), 3):
        print("  " + " ".join(entries[row : row + 3]))
    print("\nlongest functions (lines, name, place)")
    for function in index.functions:
        place = f"{os.path.relpath(function.path, folder)}:{function.line}"
        print(f"  {function.lines:>5} {shorten(function.name, 34):<34} {shorten(place, 37)}")


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else "..." + text[len(text) - width + 3 :]


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Index Python source in three ways and compare them.")
    parser.add_argument("folder", nargs="?", type=Path, help="default: this interpreter's standard library")
    parser.add_argument("--workers", type=positive, default=len(os.sched_getaffinity(0)), help="default: %(default)s")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    folder = options.folder or Path(sysconfig.get_path("stdlib"))
    if not folder.is_dir():
        print(f"index_source: no such folder: {folder}", file=sys.stderr)
        return 2
    paths = python_files(folder)
    if not paths:
        print(f"index_source: no Python files in {folder}", file=sys.stderr)
        return 2
    for path in paths:  # so that nobody pays for the disk
        try:
            Path(path).read_bytes()
        except OSError:
            pass  # skipped later, and counted
    ways: dict[str, Callable[[list[str], int], Index]] = {
        "one process": serially,
        "ProcessPoolExecutor": with_executor,
        "plait.ProcessPool": with_plait,
    }
    results = {name: timed(name, way, paths, options.workers) for name, way in ways.items()}
    alone, expected = results["one process"]
    show(expected, folder)
    print(f"\ntimes with {options.workers} workers, their start and end included")
    for name, (seconds, _) in results.items():
        print(f"  {name:<22}{seconds:>8.2f} s {alone / seconds:>7.2f} x")
    print("  ProcessPoolExecutor.map with its default chunksize of 1; plait sizes its own")
    different = [name for name, (_, index) in results.items() if index != expected]
    if different:
        print(f"index_source: results differ: {', '.join(different)}", file=sys.stderr)
        return 1
    print("  all three results are equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
