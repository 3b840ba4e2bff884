"""What a real browser makes of a page: Debian's chromium, where it is installed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium: `apt-get install chromium` brings it"
)


def run(page: str, folder: Path) -> str:
    """The document after its scripts, if it has any that run, had two seconds."""
    path = folder / "page.html"
    path.write_text(page, "utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


PATIENCE = 180.0
"""Seconds that only what would hang takes: a browser may stand still for some, any time."""

SHORTHAND = """
  globalThis.one = selector => document.querySelector(selector);
  globalThis.all = selector => [...document.querySelectorAll(selector)];
"""


class Tab:
    """A page in a browser that is driven by Chrome's DevTools protocol, over pipes.

    https://chromedevtools.github.io/devtools-protocol; no package is needed for it.

    Attributes:
        problems: what the page's console and its policies have complained of.
    """

    def __init__(self, folder: Path) -> None:
        """Starts a browser, its profile in a folder."""
        (read, self._to), (self._from, write) = os.pipe(), os.pipe()
        # Out of the way of 3 and 4, from which a browser reads and to which it writes.
        inward, outward = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read, write))
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += ["--remote-debugging-pipe", "--hide-scrollbars", f"--user-data-dir={folder}"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{inward} 4>&{outward}', "bash", *command, "about:blank"],
            pass_fds=(inward, outward), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (read, write, inward, outward):
            os.close(end)
        self._held, self._count, self._session = b"", 0, {}
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=SHORTHAND)

    def close(self) -> None:
        """Ends the browser."""
        try:
            self._session = {}
            self.call("Browser.close")
            self._process.wait(PATIENCE)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Asks the browser for something, and waits for its answer."""
        self._count += 1
        asked = {"id": self._count, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        while True:
            told = self._read()
            if told.get("id") == self._count:
                assert "error" not in told, (method, told["error"])
                return told["result"]
            self._note(told)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            assert select.select([self._from], [], [], PATIENCE)[0], "the browser is silent"
            data = os.read(self._from, 1 << 20)
            assert data, "the browser has ended"
            self._held += data
        message, self._held = self._held.split(b"\0", 1)
        return json.loads(message)

    def _note(self, told: dict[str, Any]) -> None:
        if told["method"] == "Runtime.exceptionThrown":
            details = told["params"]["exceptionDetails"]
            self.problems.append(details.get("exception", details).get("description", str(details)))
        if told["method"] == "Log.entryAdded":
            self.problems.append(told["params"]["entry"]["text"])

    def open(self, url: str) -> None:
        """Loads a page, and waits until its scripts have run."""
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def do(self, script: str) -> Any:
        """The value of an expression, a promise's once it is there."""
        told = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, condition: str, seconds: float = PATIENCE) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.do(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never: {condition}; {self.problems}"
            time.sleep(0.02)

    def processor_time(self) -> float:
        """Seconds of processors that the browser has used, all of its processes together."""
        session, self._session = self._session, {}  # the browser tells of them, not a page
        told = self.call("SystemInfo.getProcessInfo")["processInfo"]
        self._session = session
        return sum(each["cpuTime"] for each in told)

    def press(self, *keys: str, modifiers: int = 0) -> None:
        """Presses keys, one after the other: "j", "Enter", "ArrowLeft"."""
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            code = KEY_CODES.get(key, ord(key[0].upper()))
            given = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
            self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **given)
            self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def write(self, text: str) -> None:
        """Writes into what has the focus."""
        self.call("Input.insertText", text=text)

    def move(self, selector: str) -> tuple[float, float]:
        """Moves the mouse to an element's first line; returns the place."""
        x, y = self.do(
            f"(e => {{ e.scrollIntoView({{block: 'nearest'}}); const b = e.getClientRects()[0]; "
            f"return [b.left + b.width / 2, b.top + b.height / 2]; }})"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        return x, y

    def click(self, selector: str) -> None:
        """Clicks an element."""
        x, y = self.move(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drop(self, *files: Path) -> None:
        """Drops files on the page."""
        data = {"items": [], "files": list(map(str, files)), "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=300, y=400, data=data)

    def show(self, width: int, height: int, scheme: str = "light") -> None:
        """Sets the window's size, and whether the system is dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        """Writes what is seen to a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


KEY_CODES = {"Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36, "Tab": 9}
KEY_CODES |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
