"""Headless Chromium for tests, spoken to through two pipes by its DevTools protocol; no driver is needed."""

import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_PATIENCE_S = 30
_KEYS = {"Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13}


def find_chromium() -> str | None:
    """The browser's path, if it is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a browser of its own."""

    def __init__(self, executable: str, profile: Path):
        theirs, self._write = os.pipe()
        self._read, back = os.pipe()
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]
        start = f'exec "$0" "$@" 3<&{theirs} 4>&{back}'  # where Chromium expects them
        self._process = subprocess.Popen(
            ["bash", "-c", start, executable, *options, "about:blank"],
            pass_fds=(theirs, back),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(back)
        self._numbers, self._left, self._session = itertools.count(1), b"", ""
        self.problems: list[str] = []
        """What the page complained of: errors of scripts, and what its policy forbade."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(_PATIENCE_S)
        os.close(self._read)
        os.close(self._write)

    def open(self, url: str, width: int, height: int = 800) -> None:
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self._ask("Page.navigate", url="about:blank")
        self._ask("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, expression: str) -> Any:
        """The value of a script's expression."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression holds."""
        until = time.monotonic() + _PATIENCE_S
        while not self.run(expression):
            assert time.monotonic() < until, f"{expression} did not come true"
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        """Click on the middle of an element."""
        box = self.run(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();"
            f" return [b.x + b.width / 2, b.y + b.height / 2] }})(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_KEYS[key])

    def type(self, text: str) -> None:
        self._ask("Input.insertText", text=text)

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        os.write(
            self._write, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        answer = self._next(lambda found: found.get("id") == number)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _next(self, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message that is wanted; what comes before it is looked through for problems."""
        while True:
            while b"\0" not in self._left:
                block = os.read(self._read, 1 << 16)
                assert block, "the browser has ended"
                self._left += block
            text, _, self._left = self._left.partition(b"\0")
            message = json.loads(text)
            if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.problems.append(json.dumps(message["params"]))
            if is_wanted(message):
                return message
