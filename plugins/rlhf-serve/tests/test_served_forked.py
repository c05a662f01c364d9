"""A process that forks after it asked `served`: it and its child ask over connections of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FORKED = """\
import json, os, signal, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from rlhf_serve.client import Client

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        text = json.dumps({"model": "m", "rewards": [self.client_address[1]]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = Client.to(f"http://127.0.0.1:{server.server_port}", "t", 20.0)

def connection():
    return next(client.scored({"prompts": ["p"], "responses": ["a"]}, "m", 64))

before = connection()
if (child := os.fork()) == 0:
    signal.alarm(40)  # a child that hangs ends
    own = connection()
    os._exit(0 if own != before and connection() == own else 7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the child had the connection of its parent"
assert connection() == before
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_asks_over_a_connection_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
