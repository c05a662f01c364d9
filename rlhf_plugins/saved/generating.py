"""Writes a policy's responses to the prompts of a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.rows import Text
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import content, text
from rlhf_plugins.data.formats.shapes import opened, with_system_cells
from rlhf_plugins.data.rows import read_rows
from rlhf_plugins.errors import DataError, RunError
from rlhf_plugins.saved.growing_file import GrowingFile, digest, place
from rlhf_plugins.saved.run_reference import Made, made
from rlhf_plugins.saved.scoring import as_json

if TYPE_CHECKING:
    from rlhf_plugins.engine.policy import Handle
    from rlhf_plugins.engine.prompt_form import Prompted
    from rlhf_plugins.engine.sampling import Decoding

CHUNK = 16  # prompts; an interruption loses no more
ANSWERS = frozenset({"response", "responses", "chosen", "rejected"})  # columns of a row that are not kept
PLAIN = ".txt"  # a prompt a line


@dataclass(frozen=True)
class Asked:
    """A row: where it is, how its line begins, and its prompt."""

    where: str
    line: str  # as JSON without the closing brace
    prompt: Text
    written: Text  # the prompt of the line, in whose form it is answered


@dataclass(frozen=True)
class Responses:
    """The result of a call.

    Args:
        out: the file.
        rows: its prompts.
        before: those answered before.
        cut: responses cut in this call.
        notes: how prompts are given, where that is not as the file has them, not as in training or easily mistaken.
        blank: lines of a `.txt` file that were skipped.
    """

    out: Path
    rows: int
    before: int
    cut: int
    notes: tuple[str, ...] = ()
    blank: int = 0


def generate_file(model: str | Path, source: str, out: Path | None, n: int, decoding: Decoding) -> Responses:
    """Writes the prompts of a file with `n` responses each as JSON lines, and goes on where an earlier call stopped.

    A row with a `prompt`, text or messages, which its `system` turn and `tools` join as in training, keeps its other
    columns but for responses that it has. Of rows in another
    data format, each different prompt is answered once; of a `.txt` file, each line that is not blank, in the form of
    the policy's training: a message of the user, or text with its end. A line of the output has a
    `response`, or with n > 1 the list `responses`, so that `rlhf score` reads it.

    Args:
        model: a policy, as `made` takes it.
        source: a file or a data set on the hub.
        out: the file to write; None: the source's name with `.responses.jsonl`.
        n: responses to a prompt.
        decoding: how they are sampled; the same arguments give the same file, interrupted or not.

    Raises:
        DataError: rows cannot be read, or have too many tokens; it names them, and nothing is written then.
        RunError: more than one response at temperature 0, the model does not open, or `out` belongs to other prompts,
            another model or another sampling.
        KeyboardInterrupt: Ctrl-C; the message gives the number of prompts answered.
    """
    if n > 1 and decoding.temperature == 0:
        raise RunError(f"the {n} responses to a prompt are equal at temperature 0: ask for one, or sample")
    found = made(str(model), "policies")
    prompted = _prompted(found)
    asked, blank = _asked(source, prompted)
    out = place(source, out, ".responses.jsonl", "the file of prompts")
    note = {
        "model": _identity(found),
        "set of prompts": digest([one.line, one.prompt] for one in asked),
        **{name.replace("_", " "): value for name, value in vars(decoding).items()},
        "n": n,
    }
    file = GrowingFile(out, note, [one.line for one in asked], CHUNK, "name another file with --out, or delete it")
    before = file.reopen(False)
    cut = 0
    if before < len(asked):
        policy = found.policy()
        _check_room(source, policy, asked, decoding.max_new_tokens)
        cut = _answer(file, before, asked, policy, (n, decoding))
    return Responses(out, len(asked), before, cut, tuple(_notes(source, asked, prompted)), blank)


def _prompted(found: Made) -> Prompted:
    """The prompts that a policy was trained on; for the base of a run, those of the run's last policy."""
    noted = found.prompted()
    if noted.forms or found.run is None or found.folder:
        return noted
    try:
        return made(str(found.run.path), "policies").prompted()
    except RunError:  # it made none
        return noted


def _notes(source: str, asked: Sequence[Asked], prompted: Prompted) -> Iterator[str]:
    from rlhf_plugins.engine.prompt_form import form_of

    forms = {form_of(one.prompt) for one in asked}
    if prompted.forms and forms.isdisjoint(prompted.forms):
        yield f"{source}: its prompts are {' and '.join(forms)}, and the policy was trained on {prompted.forms[0]}"
    if Path(source).suffix != PLAIN:
        return
    if "messages" in forms:
        yield f"{source}: each line is a message for the chat template, as in the policy's training"
    elif prompted.ending:
        added = f"ends with {prompted.ending!r} as in training, which is added where it is missing"
        yield f"{source}: each line is a prompt that {added}"
    if escaped := [one.where for one in asked if "\\n" in content(one.prompt)]:
        more = f" and {len(escaped) - 1} more" if len(escaped) > 1 else ""
        taken = "\\n is a backslash and an n there; a prompt with line breaks needs a file of JSON lines"
        yield f"{escaped[0]}{more}: {taken}"


def _answer(file: GrowingFile, before: int, asked: Sequence[Asked], policy: Handle, how: tuple[int, Decoding]) -> int:
    n, decoding = how
    cut = 0

    def ends(first: int) -> list[str]:
        nonlocal cut
        chunk = asked[first : first + CHUNK]
        samples = policy.sample(
            [one.prompt for one in chunk],
            n,
            temperature=decoding.temperature,
            max_new_tokens=decoding.max_new_tokens,
            seed=decoding.seed + first,
            **decoding.options,
        )
        cut += sum(len(ids) >= decoding.max_new_tokens and not _ended(policy, ids) for ids in samples.response_ids)
        return [_ending(one.written, samples.responses[place * n : (place + 1) * n]) for place, one in enumerate(chunk)]

    file.extend(before, ends, "generating", "prompts are answered")
    return cut


def _ended(policy: Handle, ids: Sequence[int]) -> bool:
    return bool(ids) and ids[-1] in policy.ends


def _ending(prompt: Text, responses: Sequence[str]) -> str:
    """The rest of a line; messages are answered with messages.

    Args:
        prompt: the prompt as the line has it.
        responses: to it.
    """
    written = [r if isinstance(prompt, str) else [{"role": "assistant", "content": r}] for r in responses]
    added = {"responses": written} if len(written) > 1 else {"response": written[0]}
    return ", " + json.dumps(added, ensure_ascii=False)[1:]


def _check_room(source: str, policy: Handle, asked: Sequence[Asked], wanted: int) -> None:
    """Raises DataError with all prompts that cannot be tokenized, or leave too few tokens for a response."""
    from rlhf_plugins.engine.streaming import room

    dropped = Dropped(gathers=True)
    for one in asked:
        with dropped.row(one.where):
            try:
                left = room(policy, policy.encoder.encode_start(one.prompt), wanted)
            except DataError as error:
                raise DataError(f"{one.where}: {error}") from error
            if left < wanted:
                raise DataError(f"{one.where}: its prompt leaves {left} tokens: give --max-new-tokens {left} at most")
    dropped.refuse(source)


# ---- rows ------------------------------------------------------------------------------------------------
def _asked(source: str, prompted: Prompted) -> tuple[list[Asked], int]:
    """The rows, and the number of blank lines that were skipped."""
    if Path(source).suffix == PLAIN:
        return _plain(Path(source), prompted)
    dropped, found = Dropped(gathers=True), list[Asked]()
    rows = list(read_rows(source, dropped=dropped))
    if rows and "prompt" not in rows[0][1]:
        return list(_of_format(source)), 0
    for (where, written), (_, fields) in zip(rows, with_system_cells(rows), strict=True):
        with dropped.row(where):
            found.append(_with_prompt(where, written, fields))
    dropped.refuse(source)
    return found, 0


def _plain(path: Path, prompted: Prompted) -> tuple[list[Asked], int]:
    try:
        written = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    lines = written.removesuffix("\n").split("\n")  # other marks, such as U+2028, are in a line
    asked = [_of_line(f"{path}:{number}", line, prompted) for number, line in enumerate(lines, start=1) if line.strip()]
    if not asked:
        raise DataError(f"{path}: holds no prompt")
    return asked, len(lines) - len(asked)


def _of_line(where: str, line: str, prompted: Prompted) -> Asked:
    prompt: Text = line.removesuffix(prompted.ending) + prompted.ending
    if prompted.forms == ("messages",):
        prompt = [{"role": "user", "content": line}]
    return Asked(where, as_json(where, {"prompt": prompt}), prompt, prompt)


def _with_prompt(where: str, written: Mapping[str, Any], fields: Mapping[str, Any]) -> Asked:
    """A row, as it is written in the file, and as it is read: a system turn and tools join the prompt."""
    from rlhf_plugins.data.fields import required

    prompt = text(where, "prompt", required(where, "prompt", fields))
    kept = {name: value for name, value in written.items() if name not in ANSWERS}
    return Asked(where, as_json(where, kept), opened(where, dict(fields), prompt), prompt)


def _of_format(source: str) -> Iterator[Asked]:
    """The different prompts of rows that a data format recognises by their columns."""
    from rlhf_plugins.contract.run import Base
    from rlhf_plugins.recipe.assemble import component
    from rlhf_plugins.registry.registry import registry
    from rlhf_plugins.run.session import recognised

    words = {"use": recognised(source, registry(), "name the column of prompts prompt"), "source": source}
    data = component("data_format", words).load(Base(path=""), 0)
    prompts = {json.dumps(group.prompt): group.prompt for group in data.groups}
    for number, prompt in enumerate(prompts.values()):
        where = f"{source}: prompt {number}"
        yield Asked(where, as_json(where, {"prompt": prompt}), prompt, prompt)


def _identity(found: Made) -> str:
    """What identifies a policy: the files of a saved one, the spec of any other."""
    from rlhf_plugins.reward_models.score_cache import identity

    if found.folder:
        return identity(found.folder)
    base = "" if found.run is None else str(found.run.recipe().get("base"))
    return blake2b(json.dumps([dict(found.spec), base], sort_keys=True).encode(), digest_size=16).hexdigest()
