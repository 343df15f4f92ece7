"""Whether this machine has IPv6."""

from __future__ import annotations

import socket

import pytest


def _can_be_bound() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _can_be_bound(), reason="no IPv6: ::1 cannot be bound")
