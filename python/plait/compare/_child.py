"""What a measurement's interpreter runs: `python -m plait.compare._child NAME [quick]` prints its figures as JSON."""

from __future__ import annotations

import importlib
import json
import sys
from typing import TYPE_CHECKING

from plait.compare._measure import HOMES, MORE

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait.compare._measure import Figures


def main() -> None:
    """Take the measurement that the command line names."""
    name, quick = sys.argv[1], sys.argv[2:] == ["quick"]
    measure: Callable[[bool], Figures] = getattr(importlib.import_module({**HOMES, **MORE}[name]), name)
    sys.stdout.write(json.dumps(measure(quick)) + "\n")


if __name__ == "__main__":
    main()
