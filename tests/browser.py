"""A headless Chromium, driven over its DevTools pipe: no driver, no port, no library.

    with Browser() as browser:
        page = browser.open(Path("runs/…/release.html"), width=390, dark=True)
        page.requests, page.messages, page.evaluate("document.title"), page.screenshot(), page.pdf()

The browser looks up nothing and reports nothing; every request a page makes is listed, those of the page itself among them.
Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows", "--remote-debugging-pipe",
)  # fmt: skip
ANSWER_SECONDS = 30
#: Chromium reads commands on descriptor 3 and answers on 4; moved above both first, since either may be one of them.
LAUNCHER = """import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3), os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def chromium() -> str | None:
    """The browser on this machine, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Page:
    """An open page. `requests` are the addresses it asked for, `messages` what it wrote to the console or broke."""

    send: Callable[..., dict[str, Any]]
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, *, whole: bool = False, height: int | None = None) -> bytes:
        """PNG of what is in view, of the whole page, or of its first `height` pixels."""
        self.send("Page.bringToFront")  # a tab behind another paints when it likes
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        return base64.b64decode(self.send("Page.captureScreenshot", **options)["data"])

    def pdf(self) -> bytes:
        """The page as it prints."""
        return base64.b64decode(self.send("Page.printToPDF", preferCSSPageSize=True)["data"])


class Browser:
    """One browser with a profile of its own, gone when the `with` block ends."""

    def __enter__(self) -> Self:
        program = chromium()
        assert program, f"none of {', '.join(NAMES)} is on PATH"
        self._profile = tempfile.mkdtemp(prefix="browser-")
        reads, self._to = os.pipe()
        self._from, writes = os.pipe()
        command = [program, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(reads), str(writes), *command],
            pass_fds=(reads, writes), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(reads)
        os.close(writes)
        self._number, self._rest = 0, b""
        self._pages: dict[str, Page] = {}
        self._open: str | None = None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._to)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(
        self,
        file: Path,
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        printed: bool = False,
        scale: float = 1,
    ) -> Page:
        """Load a file in a tab of its own, and wait until it stands. The tab before it is closed."""
        if self._open is not None:
            self._send("Target.closeTarget", targetId=self._open)
            self._pages.clear()
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._open = target
        session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(lambda method, **parameters: self._send(method, session, **parameters))
        self._pages[session] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.send("Emulation.setEmulatedMedia", media="print" if printed else "", features=[scheme])
        page.send("Page.navigate", url=file.absolute().as_uri())
        page.evaluate(
            "new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', done))"
        )
        # Two frames: laid out, and painted.
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return page

    def _send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        os.write(self._to, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], ANSWER_SECONDS)
            assert ready, f"no answer within {ANSWER_SECONDS} seconds"
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        found = dict(json.loads(message))
        if found.get("sessionId") in self._pages and "method" in found:
            _note(self._pages[found["sessionId"]], found["method"], found["params"])
        return found


def _note(page: Page, event: str, values: dict[str, Any]) -> None:
    if event == "Network.requestWillBeSent":
        page.requests.append(values["request"]["url"])
    elif event == "Log.entryAdded":
        page.messages.append(values["entry"]["text"])
    elif event == "Runtime.consoleAPICalled":
        page.messages.append(str(values["args"]))
    elif event == "Runtime.exceptionThrown":
        page.messages.append(str(values["exceptionDetails"].get("text")))
