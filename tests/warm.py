"""Runs Python's command lines in forks of a process that has imported the libraries, so that each takes no seconds.

As a script it is that process, of one test process or of all workers. It imports nothing of ours, so that a command
finds what is installed when it runs.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import runpy
import select
import shutil
import signal
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

LIBRARIES = [
    *("datasets", "matplotlib.backends.backend_svg", "matplotlib.figure", "matplotlib.style", "pandas", "peft"),
    *("pydantic.json_schema", "pydantic.type_adapter", "pytest", "rich.table", "scipy.stats", "torch"),
    *("transformers.models.llama.modeling_llama", "typer", "trl:DPOTrainer", "trl:GRPOConfig", "trl:RewardTrainer"),
    "trl:SFTConfig",
]


FEW = ["numpy", "pydantic.json_schema", "scipy.optimize", "scipy.stats", "torch"]  # what comes before a package
SHARED = "RLHF_TESTS_WARM"  # the folder of the sockets at which the workers share processes


class Shared:
    """A process for all workers with each of these libraries, which it imports when the first worker asks."""

    def __init__(self) -> None:
        self._folder = os.environ[SHARED] = tempfile.mkdtemp()
        self._processes = [self._started(libraries) for libraries in (LIBRARIES, FEW)]

    def _started(self, libraries: Sequence[str]) -> subprocess.Popen[bytes]:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(_place(self._folder, libraries))
            listener.listen()
            command = [sys.executable, __file__, str(listener.fileno()), *libraries]
            return subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.communicate()
        shutil.rmtree(self._folder)
        del os.environ[SHARED]


def _place(folder: str, libraries: Sequence[str]) -> str:
    """Of the socket of the process with these libraries, by their number."""
    return os.path.join(folder, str(len(libraries)))


class Warm:
    """An interpreter: a call is `python WORDS`, where the first of the words is -m, -c or a file."""

    def __init__(self, python: str | Path = sys.executable, libraries: Sequence[str] = LIBRARIES) -> None:
        self._python, self._libraries = str(python), libraries
        self._process: subprocess.Popen[str] | None = None
        self._pipes: tuple[IO[str], IO[str]] | None = None

    def __call__(
        self, *words: str, cwd: Path | None = None, path: tuple[Path, ...] = (), env: Mapping[str, str] = os.environ
    ) -> subprocess.CompletedProcess[str]:
        """What came of it; `path` is for PYTHONPATH, before what is there."""
        paths = [*map(str, path), *filter(None, [env.get("PYTHONPATH")])]
        environment = {**env, "PYTHONPATH": os.pathsep.join(paths)}
        if not hasattr(os, "fork"):
            command = [self._python, *words]
            return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        return self._answers(words, cwd, [environment])[0]

    def together(
        self, *words: str, cwd: Path, count: int = 2, env: Mapping[str, str] = os.environ
    ) -> list[subprocess.CompletedProcess[str]]:
        """What came of each of several processes, which a launcher seems to have started."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
        places = [{"RANK": str(place), "LOCAL_RANK": str(place)} for place in range(count)]
        own = {"PYTHONPATH": "", "ACCELERATE_USE_CPU": "true", **env, **meet, "LOCAL_WORLD_SIZE": str(count)}
        return self._answers(words, cwd, [{**own, **place} for place in places])

    def _answers(
        self, words: Sequence[str], cwd: Path | None, environments: Sequence[Mapping[str, str]]
    ) -> list[subprocess.CompletedProcess[str]]:
        """What came of the same words in each environment, all at once."""
        if self._pipes is None:
            self._pipes = self._opened()
        asked, answered = self._pipes
        asked.write(json.dumps([words, str(cwd or Path.cwd()), environments]) + "\n")
        asked.flush()
        return [subprocess.CompletedProcess(words, *one) for one in json.loads(answered.readline())]

    def _opened(self) -> tuple[IO[str], IO[str]]:
        """Where a process that has imported the libraries reads and writes."""
        if SHARED in os.environ and self._python == sys.executable:
            with socket.socket(socket.AF_UNIX) as shared:
                shared.connect(_place(os.environ[SHARED], self._libraries))
                return shared.makefile("w"), shared.makefile("r")
        pipe = subprocess.PIPE
        command = [self._python, __file__, "", *self._libraries]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def close(self) -> None:
        """Ends the process that has imported the libraries, or the part of it that answers here."""
        for pipe in self._pipes or ():
            pipe.close()
        if self._process is not None:
            self._process.wait()


def main() -> None:
    """Answers on its own pipes, or where it is given a socket each worker that connects there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which one in the background inherits as ignored
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    listener, *libraries = sys.argv[1:]
    if listener:
        _share(socket.socket(fileno=int(listener)), libraries)
    else:
        _import(libraries)
        _answer(sys.stdin, sys.stdout)


def _import(libraries: Sequence[str]) -> None:
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # as `rlhf` does
    for name in libraries:
        module, _, attribute = name.partition(":")
        getattr(importlib.import_module(module), attribute or "__name__")
    gc.collect()
    gc.freeze()


def _share(listener: socket.socket, libraries: Sequence[str]) -> None:
    """Answers each that connects in a fork of its own, until standard input ends."""
    known = False
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        worker, _ = listener.accept()
        if not known:
            _import(libraries)
            known = True
        if not os.fork():
            listener.close()
            with worker, worker.makefile("r") as asked, worker.makefile("w") as answered:
                _answer(asked, answered)
            os._exit(0)
        worker.close()


def _answer(asked: IO[str], answered: IO[str]) -> None:
    """A line of exit codes and what was printed to each line of words, folder and environments."""
    while line := asked.readline():
        words, cwd, environments = json.loads(line)
        started = [_started(words, cwd, environment) for environment in environments]
        print(json.dumps([_ended(*one) for one in started]), file=answered, flush=True)


def _started(words: list[str], cwd: str, environment: dict[str, str]) -> tuple[int, IO[str], IO[str]]:
    """A fork that runs these words, and the files that it prints to."""
    out, err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115 (closed when it has ended)
    child = os.fork()
    if not child:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        os._exit(_code(words, cwd, environment))
    return child, out, err


def _ended(child: int, out: IO[str], err: IO[str]) -> tuple[int, str, str]:
    """The exit code of a fork and what it printed."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with out, err:
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read()


def _code(words: list[str], cwd: str, environment: dict[str, str]) -> int:
    """The exit code of Python with these words, as a new process would find the installed packages."""
    sys.stdin = open(os.devnull)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = cwd if words[0] in ("-m", "-c") else str(Path(words[0]).parent)
    sys.path[1:1] = [path for path in environment["PYTHONPATH"].split(os.pathsep) if path]
    site.addsitedir(sysconfig.get_path("purelib"))
    importlib.invalidate_caches()
    code: object = 0
    try:
        _run(*words)
    except SystemExit as leaves:
        code = leaves.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code if isinstance(code, int) else int(code is not None)


def _run(first: str, *words: str) -> None:
    if first == "-m":
        sys.argv = list(words)
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = [first, *words[1:]]
        exec(words[0], {"__name__": "__main__"})
    else:
        sys.argv = [first, *words]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    main()
