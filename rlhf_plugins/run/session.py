"""A run for a script or a notebook, without a recipe."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.checkpoint import Checkpoint
from rlhf_plugins.contract.rows import Data
from rlhf_plugins.contract.run import Adapter, Base, Lengths, Run
from rlhf_plugins.data.batches.chat import refuse_text
from rlhf_plugins.data.batches.rendered import unrendered
from rlhf_plugins.data.digests import of_base
from rlhf_plugins.data.formats.column_hints import as_columns
from rlhf_plugins.data.rows import Row
from rlhf_plugins.engine.weights.loading import load_tokenizer
from rlhf_plugins.errors import DataError, RunError, nearest
from rlhf_plugins.recipe import base_policy
from rlhf_plugins.registry.registry import Registry
from rlhf_plugins.registry.registry import registry as installed
from rlhf_plugins.run import origin
from rlhf_plugins.run.files import reporting
from rlhf_plugins.run.files.difference import difference
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.run.files.lock import acquire, release
from rlhf_plugins.run.hooks import Hooks
from rlhf_plugins.run.stage.stage_run import Services, StageRun
from rlhf_plugins.run.stage.starts import at

logger = logging.getLogger(__name__)
UNJUDGED = ("prompts", "supervised")  # formats that keep other columns, and read no judgement of them
LOOKED_AT = 100_000  # rows of a file whose columns are compared with those of the first
AS_MESSAGES = 'give the spec of the data `"as_messages": True`'
_OPEN: list[Hooks] = []  # hooks of the open sessions of this process


def session(
    base: str | Base,
    data: Data | Mapping[str, Any] | str | Path,
    folder: str | Path,
    *,
    seed: int = 0,
    registry: Registry | None = None,
    checkpoint: Checkpoint | None = Checkpoint(),  # noqa: B008 (frozen)
) -> Run:
    """A run for a script: it opens and trains models, and keeps results in `folder`.

    A script that is run again with the same folder goes on: finished `train` and `once` calls are read from disk.
    The run ends when the process does, and its report is written then.

    Args:
        base: a folder, a hub name, `sandbox`, or a `Base` with its adapter; `runs/a#dpo` goes on from another run.
        data: rows, the spec of a data format such as `{"use": "preference", "source": "pairs.jsonl"}`, the name of a
            format, or the path of a file whose format is found from its columns.
        folder: where everything is kept; made if missing.
        seed: the seed of everything random.
        registry: the components by name; None: every installed one.
        checkpoint: how often trainings are saved, so that a killed script goes on inside one; None saves nothing.

    Raises:
        DataError: the data cannot be read.
        PluginError: the spec of the data is wrong.
        RunError: the folder holds something else, such as a session with another base, seed or lengths of rows, or is
            in use; or a launcher started several processes.
        StopRun: a plugin refuses the run.
    """
    from rlhf_plugins.sandbox import base_path

    if processes.is_launched():
        raise RunError("a session runs in one process, and a launcher started several: put the stages into a recipe")
    registry = registry or installed()
    model = base if isinstance(base, Base) else Base(base, adapter=Adapter() if base_policy.is_policy(base) else None)
    start = base_policy.weights(replace(model, path=base_path(model.path)))
    files = RunFolder(Path(folder))
    described = replace(model, quantization=start.base.quantization, adapter=start.base.adapter)
    recipe = {**_described(described), "stages": [], "seed": seed}
    resumed = _resumed(files, recipe, start.base.path)
    rows = data if isinstance(data, Data) else _loaded(data, start.base, seed, registry)
    refuse_text(rows, start.base.chat)
    if alone := unrendered(rows.train, lambda: load_tokenizer(start.base), start.base.path, AS_MESSAGES):
        logger.warning("%s", alone)
    if not resumed:
        files.path.mkdir(parents=True, exist_ok=True)
        acquire(files.path, again=True)
        files.start(recipe, {**reporting.birth(rows, ()), origin.BASE: of_base(start.base.path)})
    files.note(status="running", message="", data=reporting.counted(rows))
    services = Services(registry, files.path, _started(registry, files), checkpoint=checkpoint)
    return StageRun(start.base, rows, seed, files.path, services=services, begins=at(start))


def _resumed(files: RunFolder, recipe: dict[str, Any], base: str) -> bool:
    """Whether the folder holds this session from before; it is locked then. Raises RunError for other content."""
    if files.path.is_dir():
        acquire(files.path, again=True)
    if not files.is_run:
        if not files.is_free:
            raise RunError(f"{files.path} is not empty and not a run of rlhf; give another folder")
        return False
    own = origin.digested(files, recipe["base"], base)
    if changed := difference(files.recipe(), recipe, digested=own):
        raise RunError(f"{files.path} holds another run: {changed}; give another folder")
    origin.refuse_other_base(files, base)
    files.drop_checkpoints()
    return True


def _started(registry: Registry, files: RunFolder) -> Hooks:
    """The hooks of the session, which are called now and when the process ends."""
    hooks = Hooks(registry, RunFolder(files.path.absolute()), print)
    atexit.register(_ended, hooks)
    _OPEN.append(hooks)
    _end_by_signals()
    hooks.started(files.recipe())
    return hooks


def _described(base: Base) -> dict[str, Any]:
    """The base in a recipe's words."""
    words = {"base": base.path, "quantization": base.quantization, "adapter": base.adapter and asdict(base.adapter)}
    if base.lengths != Lengths():  # which leaves rows out
        words |= asdict(base.lengths)
    chat = base.chat
    if chat is None:
        return words
    return {**words, "chat_template": chat.template, "system": chat.system, "chat_template_kwargs": dict(chat.options)}


def _end_by_signals() -> None:
    """Has a signal that ends the process by default first do what its end does."""
    own = os.getpid()

    def received(number: int, frame: FrameType | None) -> None:
        for hooks in _OPEN if os.getpid() == own else ():  # not in a child that a data loader forked
            _ended(hooks, f"ended by {signal.Signals(number).name}")
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            if (number := getattr(signal, name, None)) and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, received)


def _ended(hooks: Hooks, by: str = "") -> None:
    """Writes how the process of a session ended into the status, and calls the hook; a killed process does neither."""
    if not hooks.folder.is_run:  # deleted since
        return
    error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)  # in a notebook, that of any cell
    status = "interrupted" if by or isinstance(error, KeyboardInterrupt) else "failed" if error else "finished"
    message = by or (f"{type(error).__name__}: {error}" if error else "")
    hooks.folder.note(status=status, message=message, finished=reporting.now())
    hooks.finished()
    release(hooks.folder.path)


def _loaded(data: Mapping[str, Any] | str | Path, base: Base, seed: int, registry: Registry) -> Data:
    from rlhf_plugins.recipe.assemble import component

    found: Data = component("data_format", _spec(data, registry), registry).load(base, seed)
    return found


def _spec(data: Mapping[str, Any] | str | Path, registry: Registry) -> str | dict[str, Any]:
    if isinstance(data, Mapping):
        words = dict(data)
        return {"use": words.pop("format"), **words} if "format" in words else words
    if str(data) in registry.names("data_format"):
        return str(data)
    if not Path(data).exists():
        message = f"{data}: no such file, and no data format of that name"
        raise DataError(f"{message} {nearest(str(data), registry.names('data_format'))}")
    return {"use": recognised(str(data), registry, "give a spec"), "source": str(data)}


def recognised(file: str, registry: Registry, advice: str, split: str = "train") -> str:
    """The one format that recognises the first row of a file.

    A line of the log says what a training reads of a pair's counted votes, as a study's release has them.

    Raises:
        DataError: none or several do, or a later row has other columns, of which the format would read no judgement;
            with advice.
    """
    from rlhf_plugins.data.dropped import Dropped
    from rlhf_plugins.data.rows import read_rows

    formats: dict[str, Any] = {name: registry.get("data_format", name) for name in registry.names("data_format")}
    dropped = Dropped(gathers=True)
    rows = read_rows(file, split, dropped)
    where, fields = next(rows, ("", {}))
    if not where:
        dropped.refuse(file)
    found = [name for name, cls in formats.items() if cls.recognises(fields)]
    if len(found) != 1:
        which = f"several formats fit ({', '.join(found)})" if found else "no format is known by these columns"
        pairs = (
            ""
            if found or not (columns := as_columns(fields))
            else f"; pairs with `{columns}` have the format preference"
        )
        raise DataError(f"{where}: {which}: {', '.join(fields)}; {advice} {nearest('', formats)}{pairs}")
    if found[0] in UNJUDGED:
        _refuse_others(rows, fields, found[0], formats, advice)
    if found == ["preference"] and isinstance(fields.get("votes"), Mapping):
        read = "losses read of them the column weight alone" if "weight" in fields else "no loss reads them"
        own = "; `--format collected votes=apart` with the folder of a study gives them each vote"
        logger.warning("%s: a column counts votes: %s%s", where, read, own * ("collected" in formats))
    return found[0]


def _refuse_others(
    rows: Iterable[Row], first: Mapping[str, Any], name: str, formats: Mapping[str, Any], advice: str
) -> None:
    """Raises DataError for a row that the format of the first one does not recognise, of each set of columns once."""
    seen = {frozenset(first)}
    for where, fields in islice(rows, LOOKED_AT):
        if (columns := frozenset(fields)) in seen:
            continue
        seen.add(columns)
        if not formats[name].recognises(fields):
            others = " or ".join(other for other, cls in formats.items() if cls.recognises(fields)) or "no known format"
            which = f"has the columns of {others} ({', '.join(fields)}), and the first row those of {name}"
            raise DataError(f"{where}: {which}: write rows of one format, or {advice}")
