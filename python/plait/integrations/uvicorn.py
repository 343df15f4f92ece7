"""gunicorn with uvicorn's worker on plait's event loop: `gunicorn -k plait.integrations.uvicorn.PlaitWorker app:app`.

uvicorn by itself needs nothing: `uvicorn --loop plait:new_event_loop app:app`.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:

    class _Worker:
        """uvicorn's own."""

        CONFIG_KWARGS: ClassVar[dict[str, Any]]

else:
    # The worker has a package of its own; uvicorn's own module of it is deprecated.
    _name = "uvicorn_worker" if importlib.util.find_spec("uvicorn_worker") is not None else "uvicorn.workers"
    _Worker = importlib.import_module(_name).UvicornWorker


class PlaitWorker(_Worker):
    """uvicorn's worker for gunicorn, whose event loop is plait's."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {**_Worker.CONFIG_KWARGS, "loop": "plait:new_event_loop"}
