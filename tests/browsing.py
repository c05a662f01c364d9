"""Pages in Chromium, driven by Playwright: a site served for it, what goes wrong on a page, axe-core's verdict."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from typing import Any

import pytest
from PIL import Image, ImageStat

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
TOO_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
SMALLEST = """() => Math.min(...[...document.querySelectorAll("body *")]
  .filter((one) => one.checkVisibility() && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
  .map((one) => parseFloat(getComputedStyle(one).fontSize) * (one.ownerSVGElement
    ? one.ownerSVGElement.getBoundingClientRect().width / one.ownerSVGElement.viewBox.baseVal.width : 1)))"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser; skips the test where Playwright or Chromium is not installed, or does not start."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright comes with pip install '.[browser]'")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("Chromium is not installed (Debian, Ubuntu: the package chromium)")
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=program, args=QUIET)
        except sync_api.Error as error:
            pytest.skip(f"{program} does not start: {str(error).splitlines()[0]}")
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, width: int = 1280, dark: bool = False, **context: Any) -> Iterator[tuple[Any, list[str]]]:
    """An empty page with a storage of its own, and the list of what goes wrong on it.

    Errors of scripts and of the console are wrong, and requests to another place than `file:` or loopback.
    """
    scheme: Any = "dark" if dark else "light"
    size: Any = {"width": width, "height": 800}
    with browser.new_context(viewport=size, color_scheme=scheme, **context) as made:
        faults: list[str] = []
        page = made.new_page()
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: None if _near(asked.url) else faults.append(f"asks for {asked.url}"))
        yield page, faults


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of an ASGI application on a port of its own; the server ends with the block."""
    uvicorn = import_module("uvicorn")
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def too_wide(page: Any) -> int:
    """CSS pixels by which the page has to be scrolled to the side."""
    return int(page.evaluate(TOO_WIDE))


def smallest_text(page: Any) -> float:
    """The size of the smallest text that is shown, in CSS pixels, in pictures as they are scaled."""
    return float(page.evaluate(SMALLEST))


def is_dark(page: Any) -> bool:
    """Whether a picture of the page is: most of it near black, or near white; fails where it is neither or blank."""
    with Image.open(BytesIO(page.screenshot())) as picture:
        grey = ImageStat.Stat(picture.convert("L"))
    assert grey.stddev[0] > 5, "the page is blank"
    assert not 80 < grey.median[0] < 175, "the page is neither light nor dark"
    return bool(grey.median[0] < 80)


def violations(page: Any) -> list[str]:
    """What axe-core finds wrong on the page, a line an element."""
    axe = import_module("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [f"{rule['id']}: {node['target']}: {node['html'][:120]}" for rule in found for node in rule["nodes"]]


def _near(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))
