"""The program of a case: `_run_case.py MODULE.FUNCTION FOLDER ARGUMENTS...` calls a function of `cases/MODULE.py`."""

import importlib
import os
import sys
from pathlib import Path


def main() -> None:
    name, folder, *arguments = sys.argv[1:]
    for hidden in os.environ.get("HIDDEN_MODULES", "").split():
        sys.modules[hidden] = None  # type: ignore[assignment]  # importing it fails, as if it were not installed
    module, _, function = name.rpartition(".")
    case = getattr(importlib.import_module(f"tests.processes.cases.{module}"), function)
    case(Path(folder), *arguments)
    print("passed", flush=True)


if __name__ == "__main__":
    main()
