"""The program of a case: `_run_case.py MODULE.FUNCTION FOLDER ARGUMENTS...` calls a function of `cases/MODULE.py`."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    name, folder, *arguments = sys.argv[1:]
    for hidden in os.environ.get("HIDDEN_MODULES", "").split():
        sys.modules[hidden] = None  # type: ignore[assignment]  # importing it fails, as if it were not installed
    module, _, function = name.rpartition(".")
    case = getattr(importlib.import_module(f"tests.processes.cases.{module}"), function)
    # Cases look for what is left when the last pool has ended, and that is to be nothing soon.
    launch: Any = importlib.import_module("plait.processes._launch")
    launch.RUN_MAIN = "from plait.processes import _zygote; _zygote.LINGER = 1.0; " + launch.RUN_MAIN
    case(Path(folder), *arguments)
    print("passed", flush=True)


if __name__ == "__main__":
    main()
