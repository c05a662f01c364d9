"""Whether the prompts that a saved model was trained on were text or messages, noted beside it as `prompts.json`.

A chat template renders messages alone, so that a model of text that is asked in messages sees what it never saw.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rlhf_plugins.contract.rows import Data, Text
from rlhf_plugins.data.files import read_json
from rlhf_plugins.errors import RunError

Form = Literal["text", "messages"]
PROMPTS = "prompts.json"


@dataclass(frozen=True)
class Prompted:
    """How the prompts of a training were.

    Args:
        trained: their forms, in order of the names.
        start: those of the model that it started from.
        ending: white space that every text ended with, as a line break does in many formats.
    """

    trained: tuple[Form, ...] = ()
    start: tuple[Form, ...] = ()
    ending: str = ""

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms in the last training that had rows; empty where none is known."""
        return self.trained or self.start

    @property
    def as_text(self) -> bool:
        """Whether a prompt is given as text: no message was in the last training."""
        return self.forms == ("text",)


def form_of(prompt: Text) -> Form:
    """Whether a prompt is text or messages."""
    return "text" if isinstance(prompt, str) else "messages"


def note_prompts(folder: Path, data: Data, start: Path) -> None:
    """Writes beside a saved model how its prompts were.

    Args:
        folder: the folder of the model.
        data: the data of its training.
        start: the folder of the model that it started from; one without a note adds nothing.
    """
    prompts, before = [group.prompt for group in (*data.train, *data.prompts.get("train", ()))], noted_prompts(start)
    forms = {form_of(prompt) for prompt in prompts}
    endings = {prompt[len(prompt.rstrip()) :] for prompt in prompts if isinstance(prompt, str)}
    ending = before.ending if not prompts else endings.pop() if len(endings) == 1 else ""
    noted = Prompted(tuple(sorted(forms)), before.forms, ending)
    (folder / PROMPTS).write_text(json.dumps(asdict(noted)) + "\n")


def copy_note(folder: Path, out: Path) -> None:
    """Gives what was exported the note of the model that it was, if there is one."""
    if (folder / PROMPTS).exists():
        shutil.copyfile(folder / PROMPTS, out / PROMPTS)


def noted_prompts(folder: Path) -> Prompted:
    """What is noted beside a saved model; older ones have no note. Raises RunError where it cannot be read."""
    if not (folder / PROMPTS).exists():
        return Prompted()
    try:
        found = read_json(folder / PROMPTS)
        return Prompted(tuple(found["trained"]), tuple(found["start"]), str(found.get("ending", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder / PROMPTS}: cannot be read: {error}") from error
