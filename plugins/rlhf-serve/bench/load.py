"""Throughput and latency of a served reward model under many clients.

    python bench/load.py MODEL [--clients 64] [--requests 20] [--rows 4]

Each client sends its requests one after another; every answer is compared with the model's own.
"""

from __future__ import annotations

import argparse
import os
import platform
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import numpy as np
import uvicorn
from rlhf_serve.app import app
from rlhf_serve.batches import Batches
from rlhf_serve.model import scorer

from rlhf_plugins import load_reward_model

WORDS = ("the ant is a bee", "a cat and a dog", "the fox is here", "ice and jam and gas")
NEAR = 1e-3  # rewards of different batches differ by rounding


def main() -> None:
    """Parses the command line, serves, asks and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a reward model: RUN[#STAGE], or its folder")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=20, help="of each client")
    parser.add_argument("--rows", type=int, default=4, help="of a request")
    options = parser.parse_args()
    score = scorer(load_reward_model(options.model))
    asked = [rows_of(number, options.rows) for number in range(options.clients)]
    expected = [score(*rows) for rows in asked]
    server = uvicorn.Server(config := uvicorn.Config(app(Batches(score), "m", "t"), port=0, log_level="error"))
    listening = config.bind_socket()
    threading.Thread(target=server.run, args=([listening],), daemon=True).start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/score"

    def client(number: int) -> list[float]:
        (prompts, responses), seconds = asked[number], []
        with httpx.Client(headers={"authorization": "Bearer t"}, timeout=600) as session:
            for _ in range(options.requests):
                begun = time.perf_counter()
                answer = session.post(url, json={"prompts": prompts, "responses": responses})
                seconds.append(time.perf_counter() - begun)
                rewards = answer.raise_for_status().json()["rewards"]
                if max(abs(a - b) for a, b in zip(rewards, expected[number], strict=True)) > NEAR:
                    raise SystemExit(f"served {rewards}, the model itself gives {expected[number]}")
        return seconds

    begun = time.perf_counter()
    with ThreadPoolExecutor(options.clients) as clients:
        found = np.array([second for each in clients.map(client, range(options.clients)) for second in each])
    rate = len(found) * options.rows / (time.perf_counter() - begun)
    print(f"{os.cpu_count()} cores ({platform.machine()}), {options.clients} clients, {options.rows} rows a request")
    print(f"{rate:.0f} rows/s, median {np.median(found) * 1e3:.0f} ms, p95 {np.percentile(found, 95) * 1e3:.0f} ms")
    server.should_exit = True


def rows_of(number: int, rows: int) -> tuple[list[str], list[str]]:
    """Prompts that no other client has, and responses."""
    words = (WORDS * rows)[:rows]
    return [f"who is {word} {number}" for word in words], [f"{word} " * (1 + number % 5) for word in words]


if __name__ == "__main__":
    main()
