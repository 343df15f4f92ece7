"""Threads and tasks that wait for one another: channels and locks."""

from __future__ import annotations

import os

from plait import _core

_core.allow_spin(os.environ.get("PLAIT_SPIN", "1") != "0")
