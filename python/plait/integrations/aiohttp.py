"""gunicorn with aiohttp's worker on plait's event loop: `gunicorn -k plait.integrations.aiohttp.PlaitWorker app:app`.

aiohttp by itself needs nothing: `web.run_app(app, loop=plait.new_event_loop())`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from plait.loop._runner import install

if TYPE_CHECKING:

    class _Worker:
        """aiohttp's own."""

        def init_process(self) -> None: ...

else:
    _Worker = importlib.import_module("aiohttp.worker").GunicornWebWorker


class PlaitWorker(_Worker):
    """aiohttp's worker for gunicorn, whose event loop is plait's, as are all others of its process."""

    def init_process(self) -> None:
        """Begin to work, in the worker's process."""
        install()
        super().init_process()
