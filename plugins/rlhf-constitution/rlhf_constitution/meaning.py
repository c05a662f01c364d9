"""Whether a revision says what the first answer says, but for what was wrong with it: an assistant decides."""

from __future__ import annotations

from collections.abc import Callable

from rlhf_constitution.asking import Asker, outliving
from rlhf_constitution.assistant import Assistant
from rlhf_constitution.judged import CHOICES, in_both_orders
from rlhf_constitution.outcome import Ok
from rlhf_constitution.quoting import question
from rlhf_constitution.texts import Text, plain
from rlhf_plugins import Run

INSTRUCTION = (
    "The new answer repairs a fault of the first one. Does it say the same otherwise?\nChoose A or B.\nA: {a}\nB: {b}"
)
SAME, OTHER = "it says the same otherwise", "it says something else"


def same_meaning(assistant: Assistant, run: Run) -> Callable[[Text, str, str], str]:
    """A check of a revision: why it is rejected, or nothing. Without a verdict it is rejected too.

    Raises RunError where the assistant cannot be reached.
    """
    ask = Asker.of(assistant, run, outliving(run, "meanings_asked.jsonl"))

    def check(prompt: Text, first: str, revision: str) -> str:
        quoted = {"Prompt": plain(prompt), "First answer": first, "New answer": revision}
        orders = ((SAME, OTHER), (OTHER, SAME))
        texts = [question(INSTRUCTION.format(a=a, b=b), quoted, "Choice:") for a, b in orders]
        chosen, swapped = ask.choose(texts, CHOICES)
        verdict = in_both_orders(chosen, swapped)
        if not isinstance(verdict, Ok):
            return f"nobody could say whether it keeps the meaning: {verdict.reason}"
        return "" if verdict.value >= 0.5 else f"it means something else, with probability {1 - verdict.value:.2f}"

    return check
