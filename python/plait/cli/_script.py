"""Whether a file is a program that Python runs, told before it is tried: it ends in an odd `SyntaxError` otherwise."""

from __future__ import annotations

import os
import stat

from plait.cli._usage import WrongUsage

__all__ = ["check", "says_python"]

_HEAD = 4096
"""Bytes at the beginning of a file that tell what it is."""

_ONLY_PARSE = 0x400
"""`ast.PyCF_ONLY_AST`, which takes long to load."""


def check(path: str) -> None:
    """Look whether Python can run a file or a folder.

    Raises:
        WrongUsage: It cannot, as far as that can be told.
    """
    if os.path.isdir(path):
        names = ("__main__.py", "__main__.pyc")
        if not any(os.path.exists(os.path.join(path, name)) for name in names):
            raise WrongUsage(f"{path!r} is not a Python program: it is a folder without a __main__.py")
        return
    head = _head(path)
    if b"\0" in head:
        if not _is_compiled(head) and not _is_archive(path):
            raise WrongUsage(f"{path!r} is not a Python program: it is a binary file")
    elif (other := _of_another(path, head)) and not _parses(path) and not _is_archive(path):
        raise WrongUsage(f"{path!r} is not a Python program: its first line says {other}")


def says_python(path: str) -> bool:
    """Whether a file's first line has it run by Python, and it is a script."""
    head = _head(path)
    return b"\0" not in head and "python" in _interpreter(head)


def _head(path: str) -> bytes:
    """The beginning of a plain file; nothing of what is none, or may not be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return b""
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except (OSError, ValueError):
        return b""


def _of_another(path: str, head: bytes) -> str:
    """What runs a file instead of Python, as its first line says; "" where its name says that it is Python's."""
    other = _interpreter(head)
    return "" if path.endswith((".py", ".pyw")) or "python" in other or "pypy" in other else other


def _interpreter(head: bytes) -> str:
    """The first line behind its `#!`."""
    return head[2:].partition(b"\n")[0].decode("utf-8", "replace").strip() if head.startswith(b"#!") else ""


def _is_compiled(head: bytes) -> bool:
    from importlib.util import MAGIC_NUMBER

    return head.startswith(MAGIC_NUMBER)


def _is_archive(path: str) -> bool:
    """Whether it is a zip file, which may begin with a shell's script."""
    import zipfile

    return zipfile.is_zipfile(path)


def _parses(path: str) -> bool:
    """Whether it is Python all the same: installers begin scripts with a shell's line where that of Python is too long."""
    import warnings

    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(file.read(), path, "exec", _ONLY_PARSE, dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    except (MemoryError, RecursionError):  # so much of it is Python
        pass
    return True
