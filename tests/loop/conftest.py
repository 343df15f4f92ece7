"""What the tests of the event loop share."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import plait
from tests.loop._tls import Contexts


@pytest.fixture
def loop() -> Iterator[plait.EventLoop]:
    """A loop, closed in the end."""
    loop = plait.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def run() -> Callable[[Any], Any]:
    """Run a coroutine on a loop of its own."""

    def run(main: Any, *, debug: bool | None = None) -> Any:
        with asyncio.Runner(debug=debug, loop_factory=plait.new_event_loop) as runner:
            return runner.run(main)

    return run


@pytest.fixture(params=[plait.new_event_loop, asyncio.SelectorEventLoop], ids=["plait", "asyncio"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """One of our loop, and one of the standard library's, which ours is held against."""
    if request.param is asyncio.SelectorEventLoop and sys.version_info < (3, 13):
        pytest.skip("ours is held against the loop of 3.13: older ones send no empty datagrams, among other things")
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """Contexts for TLS."""
    folder: Path = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    empty = Contexts(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(), key, certificate)
    return empty._replace(server=empty.new_server(), client=empty.new_client())
