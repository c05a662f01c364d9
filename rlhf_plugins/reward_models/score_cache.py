"""A cache of rewards or log-probabilities, by model and token ids, in memory or in a file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from hashlib import blake2b, file_digest
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.data.values import plain
from rlhf_plugins.engine.cost import add, counting
from rlhf_plugins.errors import PluginError, RunError

Score = Callable[[Samples], Sequence[float | None]]
IGNORED = {"_name_or_path", "transformers_version"}  # of a configuration: the same weights may have other ones
TABLES = (
    "CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, reward REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS costs (key BLOB PRIMARY KEY, flops REAL NOT NULL) WITHOUT ROWID",
)


class ScoreCache:
    """Rewards by model, prompt ids and response ids.

    In a file they outlive the process. The answers of a call are written in one transaction, which an interruption
    leaves either complete or undone. Several processes may use one file. Close it when done (`contextlib.closing`).

    Args:
        path: an SQLite file, made if missing; None remembers until closed.

    Raises:
        RunError: the file is no cache of scores, is damaged, or cannot be read or written; so does `scores`.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.hits = 0  # responses answered from memory, repeats within a call too
        self.misses = 0  # responses that had to be scored
        with self._explained():
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path or ":memory:", timeout=60)
        try:
            with self._explained(), self._connection:
                for table in TABLES:
                    self._connection.execute(table)
        except RunError:
            self.close()
            raise

    def scores(self, identity: str, samples: Samples, score: Score, asker: str = "") -> list[float | None]:
        """Rewards of the samples, in their order; `score` is called once, and only for what is not remembered.

        Where `score` abstains the reward is None; that is not remembered, so that the next call asks again.

        Args:
            identity: the identity of the model that scores; another text is another model.
            samples: the responses, identified by their ids and columns.
            score: that model as a function, to a number per response, or None where it abstains.
            asker: who asks this once. Where it asks again, since its run was killed and goes on, the FLOPs that the
                answers took before count again. Empty: only what is computed counts.

        Raises:
            PluginError: `score` gives too many or too few rewards.
            RunError: a reward is NaN or infinite; the finite ones are remembered.
        """
        keys = _keys(identity, samples)
        known: dict[bytes, float | None] = {**self._read(set(keys))}
        missing = {key: row for row, key in reversed([*enumerate(keys)]) if key not in known}  # first row of each
        asked = blake2b(b"".join((asker.encode(), identity.encode(), *sorted(keys))), digest_size=16).digest()
        if missing:
            known |= self._scored(missing, samples, score, asked if asker else None)
        elif asker:
            add(flops=self._spent(asked))
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        return [known[key] for key in keys]

    def known(self, identity: str, samples: Samples) -> list[float | None]:
        """What is remembered of the samples, in their order; None where nothing is."""
        keys = _keys(identity, samples)
        found = self._read(set(keys))
        return [found.get(key) for key in keys]

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def _scored(
        self, missing: dict[bytes, int], samples: Samples, score: Score, asked: bytes | None
    ) -> dict[bytes, float | None]:
        """Scores the missing rows in their order, and remembers the numbers, and what they took where `asked` is."""
        rows = sorted(missing.values())
        with counting() as counter:
            rewards = [None if reward is None else float(reward) for reward in score(samples.take(rows))]
        if len(rewards) != len(rows):
            raise PluginError(f"the reward gave {len(rewards)} numbers for {len(rows)} responses")
        by_row = dict(zip(rows, rewards, strict=True))
        found = {key: by_row[row] for key, row in missing.items()}
        numbers = {key: reward for key, reward in found.items() if reward is not None}
        finite = {key: reward for key, reward in numbers.items() if isfinite(reward)}
        with self._explained(), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", finite.items())
            if asked:
                self._connection.execute("INSERT OR REPLACE INTO costs VALUES (?, ?)", (asked, counter.flops))
        if bad := len(numbers) - len(finite):
            raise RunError(f"{bad} of {len(missing)} rewards are not finite numbers")
        return found

    def _read(self, keys: set[bytes]) -> dict[bytes, float]:
        found = {}
        with self._explained():
            for key in keys:
                row = self._connection.execute("SELECT reward FROM scores WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = self._sound(row[0])
        return found

    def _spent(self, asked: bytes) -> float:
        """The FLOPs of a question that was asked before; 0 where its answers were known then."""
        with self._explained():
            row = self._connection.execute("SELECT flops FROM costs WHERE key = ?", (asked,)).fetchone()
        return 0.0 if row is None else self._sound(row[0])

    def _sound(self, reward: object) -> float:
        """A remembered number. Raises RunError when it is not a finite number: SQLite itself stores anything."""
        if isinstance(reward, float) and isfinite(reward):
            return reward
        raise self._damaged(f"it holds the number {reward!r}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:  # it was closed
            raise
        except (OSError, sqlite3.OperationalError) as error:
            raise RunError(f"{self._path}: the cache of scores cannot be read or written: {error}") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> RunError:
        return RunError(
            f"{self._path} is no cache of scores, or is damaged: {why}; delete it, and everything is scored again"
        )


def cached_in_shares(file: Path, identity: str, samples: Samples, score: Score, asker: str = "") -> list[float | None]:
    """Rewards of the samples, in their order: of what a file does not hold, each process scores its share.

    Args:
        file: the file that the main process reads and writes.
        identity: the identity of the model that scores.
        samples: the same in all processes.
        score: that model as a function; it is called in every process that has a share.
        asker: the asker as of `ScoreCache.scores`, in one process alone.

    Raises:
        RunError: as `ScoreCache` does.
    """

    def remembered() -> list[float | None]:
        with closing(ScoreCache(file)) as cache:
            return cache.known(identity, samples)

    def kept(score: Score, asker: str = "") -> list[float | None]:
        with closing(ScoreCache(file)) as cache:
            return cache.scores(identity, samples, score, asker)

    if processes.count() == 1:
        return kept(score, asker)
    known = processes.on_main(remembered)
    missing = [row for row, reward in enumerate(known) if reward is None]
    found = processes.in_shares(missing, lambda rows: list(score(samples.take(rows))))
    by_key = dict(zip(_keys(identity, samples.take(missing)), found, strict=True))
    return processes.on_main(lambda: kept(lambda asked: [by_key[key] for key in _keys(identity, asked)]))


def identity(folder: Path) -> str:
    """A hash of a saved reward model: of the names and bytes of all files in its folder.

    A base model that the folder only names is not read: it counts by its name.

    Raises:
        RunError: the folder holds no file, or one that cannot be read.
    """
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    if not files:
        raise RunError(f"{folder}: holds no file of a reward model")
    digest = blake2b(digest_size=16)
    try:
        for name in sorted(files):
            with files[name].open("rb") as file:
                content = file_digest(file, "blake2b").digest()
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + content)  # no name holds a NUL
    except OSError as error:
        raise RunError(f"{folder}: the reward model cannot be read: {error}") from error
    return digest.hexdigest()


def weights_identity(model: Any, *circumstances: object, weights: Mapping[str, Tensor] | None = None) -> str:
    """A hash of a model in memory: of its configuration without its name, of its weights, and of the circumstances.

    Args:
        model: the model.
        circumstances: what else its outputs depend on.
        weights: those that count; None are all of the model.
    """
    settings = {k: v for k, v in sorted(model.config.to_dict().items()) if k not in IGNORED}
    digest = blake2b(repr((type(model).__name__, settings, circumstances)).encode(), digest_size=16)
    for name, tensor in sorted((model.state_dict() if weights is None else weights).items()):
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(content.numpy().data)
    return digest.hexdigest()


def files_identity(folders: Sequence[str | Path], *circumstances: object) -> str | None:
    """An identity of models by the names, sizes and times of their files, read in a moment; None for a hub's name.

    Args:
        folders: the folders of a base, and of an adapter on it.
        circumstances: what else their outputs depend on.
    """
    paths = [Path(folder) for folder in folders]
    if not all(path.is_dir() for path in paths):
        return None
    files = [file for path in paths for file in sorted(path.rglob("*")) if file.is_file()]
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return blake2b(repr((states, circumstances)).encode(), digest_size=16).hexdigest()


def _keys(identity: str, samples: Samples) -> list[bytes]:
    triples = zip(samples.prompt_ids, samples.response_ids, _columns(samples), strict=True)
    return [_key(f"{identity}{columns}", prompt, response) for prompt, response, columns in triples]


def _columns(samples: Samples) -> list[str]:
    """The columns of each response as text, empty where there are none."""
    if not samples.columns:
        return [""] * len(samples.responses)
    rows = zip(*(samples.columns[name] for name in sorted(samples.columns)), strict=True)
    return [json.dumps([sorted(samples.columns), row], default=plain) for row in rows]


def _key(identity: str, prompt: Sequence[int], response: Sequence[int]) -> bytes:
    """Each part goes with its length, so that no two different triples hash the same bytes."""
    parts = [identity.encode(), *(np.asarray(ids, dtype="<i8").tobytes() for ids in (prompt, response))]
    return blake2b(b"".join(len(part).to_bytes(8, "little") + part for part in parts), digest_size=16).digest()
