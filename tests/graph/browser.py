"""A headless Chromium that opens a page, uses it, and tells what went wrong on the way."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    " --disable-background-networking --disable-component-update --window-size=1400,900"
    " --remote-debugging-pipe"
)


class Browser:
    """One tab, driven over the DevTools protocol: JSON on two pipes, a zero byte after each message.

    Attributes:
        errors: What the console and uncaught exceptions have said.
        urls: Everything that pages have asked for.
    """

    def __init__(self, program: str, profile: Path) -> None:
        command_read, self._commands = os.pipe()
        self._answers, answer_write = os.pipe()
        shell = f'exec "$0" "$@" 3<&{command_read} 4>&{answer_write}'
        arguments = [program, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", shell, *arguments],
            pass_fds=(command_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        self.errors: list[str] = []
        self.urls: list[str] = []
        self._number = 0
        self._rest = b""
        self._session = ""
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Open ``url`` and wait until its scripts have run."""
        self._call("Page.navigate", url="about:blank")
        self.errors.clear()
        self.urls.clear()
        self._call("Page.navigate", url=url)
        self.run(
            "new Promise((done) => document.readyState === 'complete' ? done() : onload = done)"
        )

    def run(self, script: str) -> Any:
        """Return what the JavaScript expression ``script`` gives, as JSON."""
        answer = self._call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release ``key``, a name such as ``Enter`` or one character."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        self._call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        self._call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def click(self, selector: str) -> None:
        """Click the middle of what ``selector`` finds."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})")
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def look(self, width: int, height: int, *, is_dark: bool = False) -> None:
        """Make the window so many px large, and light or dark."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def take_picture(self) -> bytes:
        """Return what the window shows, as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End the browser."""
        self._call("Browser.close", session="")
        self.process.wait(timeout=20)
        os.close(self._commands)
        os.close(self._answers)

    def _call(self, method: str, session: str | None = None, **params: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if to := self._session if session is None else session:
            message["sessionId"] = to
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not (part := os.read(self._answers, 1 << 16)):
                raise AssertionError("the browser went away")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
                self.errors.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in {"error", "warning"}:
                self.errors.append(str(params["entry"]))
            case "Network.requestWillBeSent":
                self.urls.append(params["request"]["url"])
            case _:
                pass
