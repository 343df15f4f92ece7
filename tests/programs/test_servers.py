"""Servers that people run, on plait's loop and under load: uvicorn with FastAPI, gunicorn, hypercorn, aiohttp."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import plait
from tests.programs._support import PATIENCE, Server, get, load, needs, served

FASTAPI = """
import asyncio
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.requests import ClientDisconnect

app = FastAPI(default_response_class=PlainTextResponse)

@app.get("/loop")
async def loop():
    loop = type(asyncio.get_running_loop())
    return f"{loop.__module__}.{loop.__name__} {VERSION}"

@app.get("/echo/{word}")
async def echo(word: str):
    await asyncio.sleep(0.001)
    return word

@app.get("/thread/{word}")
def in_a_thread(word: str):
    return word

@app.post("/size")
async def size(request: Request):
    try:
        body = await request.body()
    except ClientDisconnect:
        return ""
    return f"{len(body)} {sum(body)}"

@app.get("/stream")
async def stream():
    async def parts():
        for number in range(50):
            yield str(number) * 1000
            await asyncio.sleep(0)
    return StreamingResponse(parts())

@app.websocket("/talk")
async def talk(socket: WebSocket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text[::-1])

VERSION = 1
"""

ASGI = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await asyncio.sleep(0.001)
    path = scope["path"]
    if path == "/loop":
        loop = type(asyncio.get_running_loop())
        answer = f"{loop.__module__}.{loop.__name__} 1".encode()
    elif path == "/size":
        answer = b"%d %d" % (len(body), sum(body))
    else:
        answer = path.removeprefix("/echo/").encode()
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]}
    await send(head)
    await send({"type": "http.response.body", "body": answer})
"""

AIOHTTP = """
import asyncio
from aiohttp import web

async def loop(request):
    loop = type(asyncio.get_running_loop())
    return web.Response(text=f"{loop.__module__}.{loop.__name__} 1")

async def echo(request):
    await asyncio.sleep(0.001)
    return web.Response(text=request.match_info["word"])

async def size(request):
    try:
        body = await request.read()
    except (OSError, web.RequestPayloadError):
        return web.Response()  # who asked has left
    return web.Response(text=f"{len(body)} {sum(body)}")

app = web.Application()
app.add_routes([web.get("/loop", loop), web.get("/echo/{word}", echo), web.post("/size", size)])

if __name__ == "__main__":
    import sys
    import plait
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), loop=plait.new_event_loop(), print=None)
"""

HYPERCORN = """
import asyncio, signal, sys
import plait
from hypercorn.asyncio import serve
from hypercorn.config import Config
from app import app

async def main():
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    await serve(app, config, shutdown_trigger=ended.wait)

plait.run(main())
"""

OURS = b"plait.loop._loop.EventLoop 1"


def on_plait(main: Any) -> Any:
    """The clients run on plait's loop too."""
    with asyncio.Runner(loop_factory=plait.new_event_loop) as runner:
        return runner.run(main)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fast.py").write_text(FASTAPI)
    (tmp_path / "app.py").write_text(ASGI)
    (tmp_path / "aio.py").write_text(AIOHTTP)
    (tmp_path / "hyper.py").write_text(HYPERCORN)
    return tmp_path


def uvicorn(folder: Path, *options: str, **kwargs: Any) -> Any:
    command = ("-m", "uvicorn", "fast:app", "--loop", "plait:new_event_loop", "--port", "PORT", "--no-access-log")
    return served(folder, *command, *options, **kwargs)


# uvicorn raises the signal that ended it once more when all is closed.
ENDED = (0, -signal.SIGTERM)


def test_uvicorn_with_fastapi(folder: Path) -> None:
    needs("uvicorn", "fastapi", "httpx", "websockets")
    import httpx
    import websockets

    async def talk(port: int, number: int) -> None:
        async with websockets.connect(f"ws://127.0.0.1:{port}/talk") as socket:
            for turn in range(10):
                await socket.send(f"{number} {turn} " + "x" * turn * 1000)
                answer = await socket.recv()
                assert isinstance(answer, str)
                assert answer[::-1].startswith(f"{number} {turn} ")

    async def main(server: Server) -> None:
        assert await get(server.port, "/loop") == OURS
        assert await load(server.port) == 450
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
            stream = await client.get("/stream")
            assert stream.text == "".join(str(number) * 1000 for number in range(50))
            answers = await asyncio.gather(*(client.get(f"/thread/{number}") for number in range(40)))
            assert [answer.text for answer in answers] == [str(number) for number in range(40)]
            assert (await client.get("/none")).status_code == 404
        await asyncio.gather(*(talk(server.port, number) for number in range(10)))

    with uvicorn(folder, codes=ENDED) as server:
        on_plait(main(server))


def test_uvicorn_replaces_workers_that_die(folder: Path) -> None:
    needs("uvicorn", "fastapi")

    def workers(server: Server) -> list[int]:
        """But the resource tracker of `multiprocessing`."""
        return [pid for pid in server.children() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    with uvicorn(folder, "--workers", "2", codes=ENDED) as server:
        assert on_plait(load(server.port)) == 450
        first = workers(server)
        assert len(first) == 2
        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: len(workers(server)) == 2 and first[0] not in workers(server))
        assert on_plait(get(server.port, "/loop")) == OURS


def test_uvicorn_reloads(folder: Path) -> None:
    needs("uvicorn", "fastapi")
    with uvicorn(folder, "--reload", codes=ENDED) as server:
        assert on_plait(get(server.port, "/loop")) == OURS
        (folder / "fast.py").write_text(FASTAPI.replace("VERSION = 1", "VERSION = 2222"))

        def answers_anew() -> bool:
            try:
                return bool(on_plait(get(server.port, "/loop")) == OURS[:-1] + b"2222")
            except (OSError, asyncio.IncompleteReadError):
                return False

        wait_for(answers_anew)


def wait_for(good: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not good():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("flavour", "app", "modules"),
    [
        ("gunicorn", "app:app", ["gunicorn"]),
        ("uvicorn", "app:app", ["gunicorn", "uvicorn"]),
        ("aiohttp", "aio:app", ["gunicorn", "aiohttp"]),
    ],
)
def test_gunicorn_with_a_worker_of_ours(folder: Path, flavour: str, app: str, modules: list[str]) -> None:
    needs(*modules)
    worker = f"plait.integrations.{flavour}.PlaitWorker"
    command = ("-m", "gunicorn", "-k", worker, "-w", "2", "-b", "127.0.0.1:PORT", "--no-control-socket", app)
    with served(folder, *command) as server:
        assert on_plait(get(server.port, "/loop")) == OURS
        assert on_plait(load(server.port)) == 450
        before = set(server.children())
        server.process.send_signal(signal.SIGHUP)  # new workers, and the old ones end when they have answered
        wait_for(lambda: len(server.children()) == 2 and not before & set(server.children()))
        assert on_plait(load(server.port)) == 450


def test_hypercorn(folder: Path) -> None:
    needs("hypercorn")
    with served(folder, "hyper.py", "PORT") as server:
        assert on_plait(get(server.port, "/loop")) == OURS
        assert on_plait(load(server.port)) == 450


def test_aiohttp(folder: Path) -> None:
    needs("aiohttp")
    with served(folder, "aio.py", "PORT") as server:
        assert on_plait(get(server.port, "/loop")) == OURS
        assert on_plait(load(server.port)) == 450
