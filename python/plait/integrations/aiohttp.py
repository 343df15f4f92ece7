"""gunicorn with aiohttp's worker on plait's event loop: `gunicorn -k plait.integrations.aiohttp.PlaitWorker app:app`.

aiohttp by itself needs nothing: `web.run_app(app, loop=plait.new_event_loop())`.
"""

from __future__ import annotations

import importlib
from typing import Any

from plait.loop._runner import install

_Worker: Any = importlib.import_module("aiohttp.worker").GunicornWebWorker


class PlaitWorker(_Worker):  # type: ignore[misc]
    """aiohttp's worker for gunicorn, whose event loop is plait's, as are all others of its process."""

    def init_process(self) -> None:
        """Begin to work, in the worker's process."""
        install()
        worker: Any = super()
        worker.init_process()
