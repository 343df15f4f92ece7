"""What a child of a profiled program imports first: begins to observe it, and leaves everything else as it found it.

The folder of this file stands in `PYTHONPATH` when the child starts, and the settings in one more variable. Both are taken back
here, and the program's own `sitecustomize` runs as if this had not been there.
"""

import sys


def _begin() -> None:
    import os

    here = os.path.dirname(__file__)
    settings = os.environ.pop("PLAIT_OBSERVE", "")
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if here in paths:
        paths.remove(here)
        if paths:
            os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        else:
            del os.environ["PYTHONPATH"]
    sys.path[:] = [path for path in sys.path if path != here]
    sys.path_importer_cache.pop(here, None)
    if not settings:
        return
    home = os.path.dirname(os.path.dirname(os.path.dirname(here)))
    sys.path.insert(0, home)
    try:
        from plait.observe import _session
    except Exception as error:  # another version of Python, for which this plait was not built: the program just runs
        _excuse(settings, error)
        return
    finally:
        sys.path.remove(home)
        if home not in sys.path:
            sys.path_importer_cache.pop(home, None)
    try:
        _session.begin_in_child(settings)
    except Exception as error:  # whatever it is, it is not the program's
        _excuse(settings, error)


def _excuse(settings: str, error: Exception) -> None:
    """Leave word why this process is not in the report."""
    import os

    folder = settings.split(":", 4)[-1]
    try:
        with open(os.path.join(folder, f"{os.getpid()}.note"), "w") as file:
            file.write(f"{type(error).__name__}: {error} (Python {sys.version.split()[0]})")
    except OSError:
        pass


_begin()
del sys.modules["sitecustomize"]
try:
    __import__("sitecustomize")  # the program's own, if there is one; else the caller takes the error for an answer
except ImportError as error:
    sys.modules.pop("sitecustomize", None)
    raise error.with_traceback(None) from None
