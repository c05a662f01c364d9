"""Serves a study in a process forked from one that has imported everything, so that a start takes milliseconds."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import uvicorn
from rlhf_collect.page.app import site
from rlhf_collect.study import open_study


class Servers:
    """Starts servers of one study on one port, one after the other. Make it before any thread is started."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._here, there = get_context("fork").Pipe()
        nursery = get_context("fork").Process(target=_nursery, args=(there, folder, self.port, clock), daemon=False)
        nursery.start()
        self._nursery = nursery

    def start(self) -> int:
        """The process of a server that answers."""
        self._here.send("start")
        process: int = self._here.recv()
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return process
            except OSError:
                time.sleep(0.005)

    def kill(self, process: int) -> None:
        """As a power cut of the process: nothing is flushed or closed."""
        os.kill(process, signal.SIGKILL)
        self._here.send("reap")
        self._here.recv()

    def close(self) -> None:
        """Ends the process that starts them."""
        self._here.send("end")
        self._nursery.join()


def _nursery(orders: Connection, folder: Path, port: int, clock: Callable[[], float]) -> None:
    while (order := orders.recv()) != "end":
        if order == "reap":
            orders.send(os.wait()[0])
            continue
        child = os.fork()
        if child == 0:
            _serve(folder, port, clock)
            os._exit(0)
        orders.send(child)


def _serve(folder: Path, port: int, clock: Callable[[], float]) -> None:
    study = open_study(folder)
    study.now = clock
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(256)
    config = uvicorn.Config(site(study), log_level="error", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])
