"""A real browser without a window, asked by its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--remote-debugging-port=0",
)
PATIENCE = 60.0


class Browser:
    """One browser with one page."""

    def __init__(self, folder: Path) -> None:
        client = pytest.importorskip("websockets.sync.client")
        program = next((found for name in NAMES if (found := shutil.which(name))), None)
        if program is None:
            pytest.skip("needs Chromium (Debian: chromium)")
        self.process = subprocess.Popen(
            [program, *SWITCHES, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
            start_new_session=True,
        )
        self.events: list[dict[str, Any]] = []
        self.numbers = itertools.count(1)
        self.connection = contextlib.ExitStack()
        try:
            connecting = client.connect(self.address(folder / "DevToolsActivePort"), max_size=None)
            self.socket = self.connection.enter_context(connecting)
            for domain in ("Runtime", "Log", "Page", "Network", "Accessibility"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def address(self, file: Path) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                port = int(file.read_text().splitlines()[0])
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=PATIENCE) as answer:
                    pages = [each for each in json.load(answer) if each["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
            time.sleep(0.02)
        raise TimeoutError("the browser has not begun")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self.socket.recv(timeout=PATIENCE))
            if told.get("id") != number:
                self.events.append(told)
            elif "error" in told:
                raise AssertionError(f"{method}: {told['error']}")
            else:
                return dict(told["result"])

    def run(self, script: str) -> Any:
        """What an expression comes to, awaited if it is a promise."""
        told = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, condition: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.run(condition):
            assert time.monotonic() < deadline, f"never: {condition}; {self.troubles()}"
            time.sleep(0.01)

    def open(self, file: Path, width: int = 1400, height: int = 900, scheme: str = "light") -> None:
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=file.as_uri())
        self.wait(f"location.href === {json.dumps(file.as_uri())} && document.documentElement?.dataset.ready === 'yes'")
        self.frame()

    def frame(self) -> None:
        """Let everything be drawn that is due."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def key(self, key: str) -> None:
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **({"text": key} if len(key) == 1 else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.frame()

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, x: float, y: float, to: float) -> None:
        self.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
        for step in range(1, 5):
            self.mouse("mouseMoved", x + (to - x) * step / 4, y, button="left", buttons=1)
        self.mouse("mouseReleased", to, y, button="left", clickCount=1)
        self.frame()

    def box(self, selector: str) -> dict[str, float]:
        """Where an element is, brought into view."""
        found = self.run(
            f"""(() => {{
                const element = document.querySelector({json.dumps(selector)});
                element.scrollIntoView({{ block: "center", behavior: "instant" }});
                const {{ left, top, width, height }} = element.getBoundingClientRect();
                return {{ left, top, width, height }};
            }})()"""
        )
        self.frame()
        return dict(found)

    def troubles(self) -> list[str]:
        """What has gone wrong in the page since it was opened."""
        self.run("1")  # events that were sent before have come
        found: list[str] = []
        for event in self.events:
            told, about = event.get("method"), event.get("params", {})
            if (
                told == "Runtime.exceptionThrown"
                or (told == "Runtime.consoleAPICalled" and about["type"] in {"error", "warning", "assert"})
                or (told == "Log.entryAdded" and about["entry"]["level"] in {"error", "warning"})
            ):
                found.append(json.dumps(about)[:500])
        return found

    def requests(self) -> list[str]:
        """What the page has asked for, itself included."""
        self.run("1")
        return [
            each["params"]["request"]["url"]
            for each in self.events
            if each.get("method") == "Network.requestWillBeSent"
        ]

    def picture(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def close(self) -> None:
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
