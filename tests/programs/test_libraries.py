"""Libraries that people use, on plait's loop: clients and servers, and data bases that run for real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import plait
from tests.programs._support import PATIENCE, free_port, needs


@pytest.fixture
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Run a coroutine on plait's loop, on which nothing may go wrong unseen."""
    told: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=plait.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: told.append(context))
        yield runner.run
    assert not told


def in_a_process(script: str, folder: Path, *arguments: str) -> str:
    """What a program prints that has to end well."""
    (folder / "program.py").write_text(script)
    command = [sys.executable, "-W", "error", str(folder / "program.py"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_aiohttp_client_and_server(run: Any) -> None:
    needs("aiohttp")
    import aiohttp
    from aiohttp import web

    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for part in request.content.iter_chunked(5000):
            await response.write(part)
        await response.write_eof()
        return response

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(PATIENCE)
        return web.Response()

    async def talk(request: web.Request) -> web.WebSocketResponse:
        answers = web.WebSocketResponse()
        await answers.prepare(request)
        async for message in answers:
            await answers.send_str(message.data[::-1])
        return answers

    async def parts(number: int) -> Any:
        for turn in range(20):
            yield f"{number}-{turn} ".encode() * 500

    async def main() -> None:
        app = web.Application()
        app.add_routes([web.post("/echo", echo), web.get("/slow", slow), web.get("/talk", talk)])
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as session:

            async def one(number: int) -> None:
                async with session.post(f"{base}/echo", data=parts(number)) as response:
                    whole = b"".join([part async for part in parts(number)])
                    assert await response.read() == whole

            async def late(number: int) -> None:
                with pytest.raises(asyncio.TimeoutError):
                    await session.get(f"{base}/slow", timeout=aiohttp.ClientTimeout(total=0.001 * number + 0.001))

            async def talks(number: int) -> None:
                async with session.ws_connect(f"{base}/talk") as ws:
                    for turn in range(10):
                        await ws.send_str(f"{number} {turn}")
                        assert (await ws.receive_str())[::-1] == f"{number} {turn}"

            numbers = range(20)
            await asyncio.gather(*map(one, numbers), *map(late, numbers), *map(talks, numbers))
        await runner.cleanup()

    run(main())


def test_websockets(run: Any) -> None:
    needs("websockets")
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import serve

    async def handler(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async def client(port: int, number: int) -> None:
        async with connect(f"ws://127.0.0.1:{port}") as connection:
            for size in (0, 10, 70_000):
                message = bytes([number]) * size
                await connection.send(message)
                assert await connection.recv() == message

    async def main() -> None:
        async with serve(handler, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await asyncio.gather(*(client(port, number) for number in range(30)))

    run(main())


ANYIO = """
import asyncio, signal, os, sys
import anyio
from anyio.streams.tls import TLSStream
import plait

async def main():
    assert type(asyncio.get_running_loop()) is plait.EventLoop
    async def serve(client):
        async with client:
            async for data in client:
                await client.send(data)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        async def client(number):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                for turn in range(10):
                    await stream.send(b"%d-%d" % (number, turn))
                    assert await stream.receive() == b"%d-%d" % (number, turn)
        async with anyio.create_task_group() as clients:
            for number in range(20):
                clients.start_soon(client, number)
        with anyio.move_on_after(0.01) as scope:
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.receive()
        assert scope.cancelled_caught
        group.cancel_scope.cancel()
    await listener.aclose()
    async with await anyio.create_udp_socket(local_host="127.0.0.1") as udp:
        address = udp.extra(anyio.abc.SocketAttribute.local_address)
        await udp.sendto(b"x", *address)
        assert (await udp.receive())[0] == b"x"
    async with await anyio.create_unix_listener("socket") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        async with await anyio.connect_unix("socket") as stream:
            await stream.send(b"unix")
            assert await stream.receive() == b"unix"
        group.cancel_scope.cancel()
    done = await anyio.run_process([sys.executable, "-c", "print(5)"])
    assert done.stdout == b"5\\n"
    assert await anyio.to_thread.run_sync(lambda: anyio.from_thread.run_sync(lambda: 7)) == 7
    with anyio.open_signal_receiver(signal.SIGUSR1) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        async for number in signals:
            assert number == signal.SIGUSR1
            break
    assert await anyio.Path("program.py").exists()
    print("ok")

anyio.run(main, backend_options={"loop_factory": plait.new_event_loop})
"""


def test_anyio(tmp_path: Path) -> None:
    needs("anyio")
    assert in_a_process(ANYIO, tmp_path) == "ok\n"


def test_pytest_asyncio_and_anyios_plugin(tmp_path: Path) -> None:
    needs("pytest_asyncio", "anyio")
    (tmp_path / "conftest.py").write_text(
        "import plait, pytest\n"
        "def pytest_asyncio_loop_factories(config, item):\n"
        "    return {'plait': plait.new_event_loop}\n"
        "@pytest.fixture\n"
        "def anyio_backend():\n"
        "    return 'asyncio', {'loop_factory': plait.new_event_loop}\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import asyncio, plait, pytest, pytest_asyncio\n"
        "@pytest_asyncio.fixture\n"
        "async def server():\n"
        "    server = await asyncio.start_server(lambda reader, writer: writer.close(), '127.0.0.1', 0)\n"
        "    yield server.sockets[0].getsockname()\n"
        "    server.close()\n"
        "    await server.wait_closed()\n"
        "@pytest.mark.asyncio\n"
        "async def test_with_pytest_asyncio(server):\n"
        "    assert type(asyncio.get_running_loop()) is plait.EventLoop\n"
        "    reader, writer = await asyncio.open_connection(*server)\n"
        "    assert await reader.read() == b''\n"
        "    writer.close()\n"
        "    await writer.wait_closed()\n"
        "@pytest.mark.anyio\n"
        "async def test_with_anyio():\n"
        "    assert type(asyncio.get_running_loop()) is plait.EventLoop\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-c", os.devnull, "--rootdir", str(tmp_path)]
    command += ["-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


# ---- data bases


@contextlib.contextmanager
def started(command: list[str], ready: Callable[[], bool], **kwargs: Any) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kwargs)
    try:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_redis(run: Any, tmp_path: Path) -> None:
    needs("redis")
    import redis.asyncio

    program, path = shutil.which("redis-server"), str(tmp_path / "redis")
    if program is None:
        pytest.skip("redis-server is not installed (Debian: redis-server)")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--unixsocket", path, "--dir", str(tmp_path), "--save", ""]

    async def use(url: str) -> None:
        async with redis.asyncio.from_url(url) as client:

            async def one(number: int) -> None:
                key = f"{url} {number}"
                await client.set(key, bytes([number]) * 10_000)
                assert await client.get(key) == bytes([number]) * 10_000
                async with client.pipeline() as pipe:
                    pipe.incr(f"{key} count").incr(f"{key} count")
                    assert await pipe.execute() == [1, 2]

            async def cancelled(number: int) -> None:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(client.blpop([f"never {number}"]), 0.01)

            await asyncio.gather(*map(one, range(30)))
            await asyncio.gather(
                *map(cancelled, range(5))
            )  # with connections that are there: redis-py connects to the end
            async with client.pubsub() as channel:
                await channel.subscribe("news")
                assert (await channel.get_message(timeout=PATIENCE))["type"] == "subscribe"
                await client.publish("news", "hello")
                assert (await channel.get_message(timeout=PATIENCE))["data"] == b"hello"

    def ready() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return os.path.exists(path)
        return False

    with started([program, *options], ready):
        run(use(f"redis://127.0.0.1:{port}"))
        run(use(f"unix://{path}"))


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder of the socket of a PostgreSQL that runs."""
    found = [shutil.which("postgres"), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")))]
    program = next((Path(name).resolve() for name in found if name), None)
    if program is None or not (program.parent / "initdb").exists():
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    folder = tmp_path_factory.mktemp("postgres")
    who: dict[str, Any] = {}
    if os.getuid() == 0:
        try:
            who["user"] = pwd.getpwnam("postgres").pw_name
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user of that name")
        for each in (folder, *folder.parents[:2]):
            each.chmod(0o755)
        shutil.chown(folder, who["user"])
    data = folder / "data"
    make = [str(program.parent / "initdb"), "-D", str(data), "-U", "test", "-A", "trust", "--no-sync"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=folder, **who)
    options = ["-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
    address = str(folder / ".s.PGSQL.5432")
    with started([str(program), *options], lambda: os.path.exists(address), cwd=folder, **who):
        yield str(folder)


@pytest.mark.lasting  # the data base runs until the last test of this file
def test_asyncpg(run: Any, postgres: str) -> None:
    needs("asyncpg")
    import asyncpg

    async def main() -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                pool = await asyncpg.create_pool(
                    host=postgres, user="test", database="postgres", min_size=1, max_size=5
                )
                break
            except asyncpg.CannotConnectNowError:
                assert time.monotonic() < deadline

        async def one(number: int) -> None:
            assert await pool.fetchval("select $1::text || pg_sleep(0.001)", str(number)) == str(number)
            rows = await pool.fetch("select generate_series(1, 1000) as n")
            assert [row["n"] for row in rows] == list(range(1, 1001))

        async def cancelled(number: int) -> None:
            with pytest.raises(asyncio.TimeoutError):
                await pool.fetchval("select pg_sleep(60)", timeout=0.05)

        async with pool:
            await asyncio.gather(*map(one, range(30)), *map(cancelled, range(3)))
            await pool.execute("create table words (n int, word text)")
            records = [(n, "x" * n) for n in range(1000)]
            await pool.copy_records_to_table("words", records=records)
            assert await pool.fetchval("select sum(length(word)) from words") == sum(range(1000))

    run(main())


@pytest.mark.lasting
def test_psycopg(run: Any, postgres: str) -> None:
    needs("psycopg")
    import psycopg

    async def one(number: int) -> None:
        async with await psycopg.AsyncConnection.connect(host=postgres, user="test", dbname="postgres") as connection:
            for turn in range(5):
                cursor = await connection.execute("select %s::int * 2", (number + turn,))
                assert await cursor.fetchone() == (2 * (number + turn),)

    async def main() -> None:
        await asyncio.gather(*map(one, range(10)))

    run(main())


# ---- what brings pollers and loops of its own

GRPC = """
import asyncio
import grpc, grpc.aio
import plait

async def handler(request, context):
    return request[::-1]

async def stream(request, context):
    for number in range(20):
        yield b"%d" % number

class Handlers(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/test/reverse":
            return grpc.unary_unary_rpc_method_handler(handler)
        return grpc.unary_stream_rpc_method_handler(stream)

async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        reverse = channel.unary_unary("/test/reverse")
        async def one(number):
            word = b"%d" % number * 100
            assert await reverse(word) == word[::-1]
        await asyncio.gather(*map(one, range(100)))
        parts = [part async for part in channel.unary_stream("/test/stream")(b"")]
        assert parts == [b"%d" % number for number in range(20)]
        try:
            await channel.unary_unary("/test/stream")(b"", timeout=0)
        except grpc.aio.AioRpcError as error:
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    await server.stop(None)
    print("ok")

plait.run(main())
"""


def test_grpc(tmp_path: Path) -> None:
    needs("grpc")
    assert in_a_process(GRPC, tmp_path) == "ok\n"


NOTEBOOK = """
import asyncio, sys, warnings
import nbformat
from nbclient import NotebookClient
import plait

warnings.simplefilter("default")
cells = [
    "import asyncio, plait\\nawait asyncio.sleep(0.001)\\nprint('awaited')",
    "async def five():\\n    await asyncio.sleep(0.001)\\n    return 5",
    "coroutine = five()\\n"
    "try:\\n    plait.run(coroutine, nested=False)\\nexcept RuntimeError:\\n    coroutine.close()\\n    print('refused')",
    "print(plait.run(five()))",
    "with plait.ThreadPool(2) as pool:\\n    print(await asyncio.wrap_future(pool.submit(pow, 2, 5)))",
    "import threading\\nfound = []\\n"
    "thread = threading.Thread(target=lambda: found.append(plait.run(five())))\\nthread.start()\\nthread.join()\\nprint(found)",
]
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])

async def main():
    # The client talks to the kernel through ZeroMQ, whose descriptors the loop watches.
    await NotebookClient(notebook, timeout=60, kernel_name="python3").async_execute()
    print("".join(output["text"] for cell in notebook.cells for output in cell.outputs), end="")

plait.run(main())
"""


def test_a_notebook(tmp_path: Path) -> None:
    needs("nbclient", "ipykernel")
    (tmp_path / "program.py").write_text(NOTEBOOK)
    env = {**os.environ, "IPYTHONDIR": str(tmp_path), "JUPYTER_PLATFORM_DIRS": "1"}
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "awaited\nrefused\n5\n32\n[5]\n", done.stderr
