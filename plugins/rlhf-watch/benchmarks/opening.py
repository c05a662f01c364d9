"""Times how long the page of many runs takes to open in Chromium.   python benchmarks/opening.py [RUNS] [STEPS]

The folder holds RUNS runs (100) of STEPS steps (10,000) with 18 numbers each, ten of them percentiles. By the
browser's own clock, from the request to the frame after the one that paints the curves, in a new window, 9 times: the
first with a server that has just started, in a browser that has shown another page. Then the processor time of reading
one run, the least of 5, which other programs lengthen less.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import threading
import time
from math import sin
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import uvicorn
from playwright.sync_api import Browser, sync_playwright
from rlhf_watch.page.app import site
from rlhf_watch.page.board import Board, Followed

from rlhf_plugins import open_run

NAMES = ["reward", "gold_reward", "kl", "entropy", "length", "clip_fraction", "value_loss", "loss"]
NAMES += [f"{name}_p{rank}" for name in ("reward", "length") for rank in (5, 25, 50, 75, 95)]
NOTE = """
const there = () => document.body?.dataset.ready && document.querySelector("#curves figure svg");
const note = () => requestAnimationFrame((now) => { window.drawn = now; });
const look = () => requestAnimationFrame(() => there() ? note() : look());
look();
"""


def fill(folder: Path, runs: int, steps: int) -> None:
    """Runs that have ended, all with the same numbers."""
    lines = []
    for step in range(steps):
        numbers = {name: sin(step / 900 + place) for place, name in enumerate(NAMES)}
        lines.append(json.dumps({"stage": "online", "step": step, **numbers}) + "\n")
    for number in range(runs):
        run = folder / f"run-{number:03}"
        run.mkdir()
        (run / "recipe.yaml").write_text(f"stages: [{{stage: online, trainer: {{max_steps: {steps}}}}}]\n")
        (run / "status.json").write_text(json.dumps({"status": "finished"}))
        (run / "metrics.jsonl").write_text("".join(lines))


def opened(browser: Browser, address: str) -> float:
    """Milliseconds of one opening."""
    with browser.new_context() as context:
        context.add_init_script(NOTE)
        page = context.new_page()
        page.goto(address)
        return float(page.wait_for_function("() => window.drawn").json_value())


def reading(folder: Path) -> float:
    """Processor milliseconds that a run takes to be read."""
    times = []
    for _ in range(5):
        run, began = Followed("run", open_run(folder)), time.process_time()
        run.read()
        times.append(1000 * (time.process_time() - began))
    return min(times)


def main(runs: int = 100, steps: int = 10_000) -> None:
    """Fills a folder, serves it and prints the times."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/?token=t"
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        fill(Path(folder), runs, steps)
        server = uvicorn.Server(uvicorn.Config(site(Board(Path(folder)), "t"), log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        browser.new_page().goto("data:text/html,<p>a browser that is already open</p>")
        first, *later = (opened(browser, address) for _ in range(9))
        browser.close()
        server.should_exit = True
        thread.join()
        read = reading(Path(folder) / "run-000")
    print(f"{runs} runs of {steps} steps: {first:.0f} ms, then {median(later):.0f} ms (at most {max(later):.0f})")
    print(f"one run is read in {read:.0f} ms of processor time")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
