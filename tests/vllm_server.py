"""A small server that speaks vLLM's protocol as TRL's client does, and what hands it weights without a GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

CLIENT = """\
import trl.generation.vllm_client as client
import trl.generation.vllm_generation as generation
client.is_vllm_available = generation.is_vllm_available = lambda *_: True
def update(self, metadata, named_params):
    sums = {name: float(each.double().square().sum()) for name, each in named_params}
    assert list(sums) == [name for name, _, _ in metadata]
    self._post(f"{self.base_url}/weights", json=sums)
client.VLLMClient.init_communicator = lambda self, device: None
client.VLLMClient.update_named_params = update
"""  # TRL sends weights by NCCL, which needs a GPU


class Server(ThreadingHTTPServer):
    """Answers a prompt with tokens that depend on it, on their place and on how often weights came."""

    def __init__(self) -> None:
        self.weights: list[dict[str, float]] = []  # sums of squares by name, of each update
        self.asked: list[list[list[int]]] = []  # prompts of each request
        self.ends: list[list[int]] = []  # tokens that end a response, of each request
        super().__init__(("127.0.0.1", 0), _Handler)

    def choices(self, prompts: list[list[int]], n: int) -> list[dict[str, Any]]:
        """As of /v1/completions."""
        return [self._choice(prompt, place) for prompt in prompts for place in range(n)]

    def _choice(self, prompt: list[int], place: int) -> dict[str, Any]:
        first = sum(prompt) * 7 + 5 * place + len(self.weights)
        ids = [3 + (first + 3 * i) % 12 for i in range(1 + first % 5)] + [1] * (first % 2)
        tokens = [f"token_id:{each}" for each in ids]
        logprobs = {"tokens": tokens, "token_logprobs": [-1.0] * len(ids), "top_logprobs": [{}] * len(ids)}
        return {"prompt_token_ids": prompt, "token_ids": ids, "logprobs": logprobs}


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "base"}]})  # /health and /v1/models

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        if self.path == "/weights":
            self.server.weights.append(given)
        elif self.path == "/v1/completions":
            self.server.asked.append(given["prompt"])
            self.server.ends.append(given["stop_token_ids"])
            self._answer({"choices": self.server.choices(given["prompt"], given["n"])})
            return
        self._answer({"success": True})

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port, `server.server_port`."""
    with Server() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
