"""The responses that a saved reward model is probed with: of a file, or of its run. Opens both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlhf_plugins import Group, RunError, load_reward_model, open_run
from rlhf_watch.probe.interventions import Intervention
from rlhf_watch.probe.probing import Probed, probe
from rlhf_watch.probe.reward import Asked
from rlhf_watch.rows import parsed

FORMS = ("response", "responses", "chosen and rejected")


def probed(model: str, file: Path | None, rows: int, asked: Sequence[Intervention]) -> Probed:
    """A saved reward model, asked about the first rows.

    Raises:
        DataError: a row cannot be read, or too few have a reward.
        RunError: the model does not open, or no file is given and it is in no run.
    """
    groups = list(of_file(file)) if file is not None else _held_out(model)
    judge: Any = load_reward_model(model)
    if judge.compares:
        raise RunError(
            f"{model}: aggregation {judge.compares} compares the responses to a prompt, and a probe changes one"
        )
    reward = Asked(judge, judge.encode, judge.encoder.tokenizer)
    return probe([group for group in groups if group.responses][:rows], reward, asked, reward.reads)


def _held_out(model: str) -> list[Group]:
    try:
        return list(open_run(model.partition("#")[0]).data().test)
    except RunError as error:
        raise RunError(f"{error}; give a FILE with responses") from error


def of_file(file: Path) -> Iterator[Group]:
    """The rows of a file of JSON lines. Raises DataError where one has no prompt or no response."""
    needs = f"a row should have a `prompt` and {' or '.join(FORMS)}"
    yield from parsed(file, lambda row: Group(row["prompt"], tuple(_responses(row))), needs)


def _responses(row: dict[str, Any]) -> list[Any]:
    if "responses" in row:
        return list(row["responses"])
    return [row["response"]] if "response" in row else [row["chosen"], row["rejected"]]
