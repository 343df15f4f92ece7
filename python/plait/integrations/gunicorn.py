"""gunicorn with its own ASGI worker on plait's event loop: `gunicorn -k plait.integrations.gunicorn.PlaitWorker app:app`."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

from plait.loop._runner import new_event_loop

if TYPE_CHECKING:

    class _Worker:
        """gunicorn's own."""

        loop: asyncio.AbstractEventLoop

else:
    _Worker = importlib.import_module("gunicorn.workers.gasgi").ASGIWorker


class PlaitWorker(_Worker):
    """gunicorn's ASGI worker, whose event loop is plait's whatever `--asgi-loop` says."""

    def _setup_event_loop(self) -> None:
        self.loop: asyncio.AbstractEventLoop = new_event_loop()
        asyncio.set_event_loop(self.loop)
