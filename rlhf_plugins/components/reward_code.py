"""A reward for Python code that passes the tests of its prompt, run in a process of its own with limits.

The limits stop mistakes: a loop without end, too much memory, a flood of output. They are no sandbox: the code runs as
the user who trains, and can read the user's files and reach the network. Where that matters, train in a container.

Nor can tests in Python judge code that works against them: it may give an object that is equal to everything, change
what `assert` compares, or look for the word below in the stack (`sys._getframe`) or the memory of its own process. A
word that only the variables of a function hold stops what ends early or prints, and what looks where names are.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from textwrap import dedent
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run_kinds import Reward
from rlhf_plugins.data.columns import of_prompts
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Group, Samples
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.contract.run_kinds import RewardFunction

FENCED = re.compile(r"^[^\S\n]*```[^\S\n]*([\w+-]*)[^\n]*\n(.*?)^[^\S\n]*```", re.DOTALL | re.MULTILINE)
PYTHON = ("py", "python", "python3")  # tags of a block
FILES = 2**20  # bytes that the code may write
SYSTEM = ("SYSTEMROOT",)  # variables of the environment without which Python does not start on Windows
# The word is printed behind the tests: code that ends the process early, or prints something else, has not passed. It
# is a text in a variable of a function, which no module, and no object that the garbage collector lists, holds.
RUNNER = """
def run():
    import json, os, sys, types
    given = json.load(sys.stdin)
    word = given.pop("word")
    try:
        import resource
        for name, limit in given["limits"].items():
            resource.setrlimit(getattr(resource, name), (limit, limit))
    except ImportError:
        pass
    out = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    space = vars(module)
    exec(compile(given["code"], "answer", "exec"), space)
    for test in given["tests"]:
        exec(compile(test, "test", "exec"), space)
    os.write(out, word.encode())
run()
"""


@dataclass(frozen=True)
class Code(Reward):
    """1 where the response's Python passes the tests of its prompt, 0 where it does not; it abstains without tests.

    The code is the last fenced block with the tag `python`, `python3` or `py`; without one the last block that has no
    tag; without any the whole response. Tests are Python too, such as `assert add(2, 3) == 5`: a text, or a list of
    texts that all must pass. The standard library alone can be imported. What is run has limits of time, memory and
    output; this is no sandbox against malice, and code that reads the stack of its own process can pass any test.
    """

    column: Annotated[str, Field(min_length=1, description="the prompts' column with the tests")] = "tests"
    seconds: Annotated[float, Field(gt=0, le=600, description="of one response")] = 5.0
    megabytes: Annotated[int, Field(ge=64, description="of memory, for one response")] = 512
    processes: Annotated[int, Field(ge=1, le=256, description="responses that run at once")] = 4

    def reads_columns(self) -> frozenset[str]:
        """The tests."""
        return frozenset({self.column})

    def can_score(self, prompt: Group) -> bool:
        """Whether the row has tests. Raises RunError where they are no text."""
        return bool(_tests(prompt.columns.get(self.column), self.column))

    def build(self, run: Run) -> RewardFunction:
        """What it builds raises RunError where the prompts have no such column, or tests are no text."""

        def score(samples: Samples) -> Sequence[float | None]:
            tests = [_tests(value, self.column) for value in of_prompts(samples, self.column)]
            with ThreadPoolExecutor(self.processes) as pool:
                return list(pool.map(self._scored, samples.responses, tests))

        return score

    def _scored(self, response: str, tests: list[str]) -> float | None:
        if not tests:
            return None
        return float(self._passes(_code(response), tests))

    def _passes(self, code: str, tests: list[str]) -> bool:
        word = token_hex(16)
        limits = {"RLIMIT_AS": self.megabytes * 2**20, "RLIMIT_CPU": int(self.seconds) + 1, "RLIMIT_FSIZE": FILES}
        given = json.dumps({"code": code, "tests": tests, "word": word, "limits": {**limits, "RLIMIT_CORE": 0}})
        with tempfile.TemporaryDirectory() as folder:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", RUNNER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={name: os.environ[name] for name in SYSTEM if name in os.environ},
                start_new_session=True,
            )
            try:
                out, _ = child.communicate(given.encode(), timeout=self.seconds)
            except subprocess.TimeoutExpired:
                return False
            finally:
                _end(child)
                for stream in (child.stdin, child.stdout):
                    if stream is not None:
                        stream.close()
        return out.decode(errors="replace") == word


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends a process, where the system has groups of processes with all that it started."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    child.wait()


def _code(response: str) -> str:
    """The Python of a response."""
    blocks = [(tag.lower(), dedent(code)) for tag, code in FENCED.findall(response)]
    tagged, bare = ([code for tag, code in blocks if tag in tags] for tags in (PYTHON, ("",)))
    return [response, *bare, *tagged][-1]


def _tests(value: object, column: str) -> list[str]:
    found = value if isinstance(value, list) else [] if value in (None, "") else [value]
    if wrong := [one for one in found if not isinstance(one, str)]:
        raise RunError(f"reward: {column} should be text or a list of texts, found {type(wrong[0]).__name__}")
    return [str(one) for one in found]


@hookimpl
def register_reward() -> dict[str, type]:
    """The reward of this file."""
    return {"code": Code}
