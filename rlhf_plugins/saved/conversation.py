"""A conversation with one policy or two: what was said, what each answers, and which answer was better."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.rows import Text
from rlhf_plugins.errors import DataError, RunError
from rlhf_plugins.saved.run_reference import Made

if TYPE_CHECKING:
    from rlhf_plugins.data.batches.tokens import RowEncoder
    from rlhf_plugins.engine.policy import Handle
    from rlhf_plugins.engine.sampling import Decoding
    from rlhf_plugins.reward_models.handle import RewardHandle


@dataclass(frozen=True)
class Answer:
    """What a policy answered; `ended` is False where it was cut."""

    by: str
    text: str
    ended: bool = False


@dataclass
class Conversation:
    """Messages so far, and the answers to the last one.

    Where the first policy's base has no chat template, or `ending` is given, every line is a prompt of its own.

    Args:
        policies: the policies by their names; all answer the same conversation.
        decoding: how answers are sampled; each has a seed of its own.
        judge: the reward model for `rewards`, opened when it is first asked.
        file: where `prefer` writes.
        ending: added to every line, where policies get text; None gives them messages where there is a chat template.
        reader: the reader of a reward model, for which answers are cut as long as it can read the conversation at all.
    """

    policies: Sequence[tuple[str, Handle]]
    decoding: Decoding
    judge: Made | None
    file: Path
    ending: str | None = None
    reader: RowEncoder | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    better: int = 0  # the place of the answer that the conversation goes on from
    sampled: int = 0  # answers so far
    _prompt: Text = ""
    _reward: RewardHandle | None = None

    @property
    def remembers(self) -> bool:
        """Whether the policies see what was said before."""
        return self.ending is None and self.policies[0][1].tokenizer.chat_template is not None

    def ask(self, line: str) -> None:
        """Begins a turn; the better answer of the last one, or its first, becomes part of the conversation."""
        if not self.remembers:
            ending = self.ending or ""
            self._prompt = line.replace("\\n", "\n").removesuffix(ending) + ending
        else:
            if self.answers:
                self.messages.append({"role": "assistant", "content": self.answers[self.better].text})
            elif self.messages:  # a line that could not be answered
                self.messages.pop()
            self.messages.append({"role": "user", "content": line})
            self._prompt = [dict(message) for message in self.messages]
        self.answers, self.better = [], 0

    def answer(self, name: str, policy: Handle) -> Iterator[str]:
        """One more answer to the last line, in pieces; kept also where the reader stops early."""
        from rlhf_plugins.engine.streaming import stream

        if not self._prompt:
            raise DataError("there is no line to answer yet")
        pieces: list[str] = []
        ended = False
        self.sampled += 1
        seed = self.decoding.seed + self.sampled - 1
        seeded = replace(self.decoding, seed=seed, max_new_tokens=self._room())
        try:
            source = stream(policy, self._prompt, seeded)
            while True:
                try:
                    piece = next(source)
                except StopIteration as stop:
                    ended = bool(stop.value)
                    break
                pieces.append(piece)
                yield piece
        finally:
            if pieces or ended:
                self.answers.append(Answer(name, "".join(pieces), ended))

    def _room(self) -> int:
        """Tokens of the next answer: no more than the reader takes behind the conversation."""
        wanted = self.decoding.max_new_tokens
        most = self.reader.fit.most if self.reader else None
        if self.reader is None or most is None:
            return wanted
        try:
            left = most - len(self.reader.encode_start(self._prompt)) - 1  # the end of the answer
        except DataError:  # which `rewards` reports
            return wanted
        return min(wanted, left) if left > 0 else wanted

    def again(self) -> None:
        """Makes room for further answers to the last line: of one policy the last one is kept, of two none."""
        self.answers, self.better = self.answers[-1:] if len(self.policies) == 1 else [], 0

    def reset(self) -> None:
        """Forgets everything that was said."""
        self.messages, self.answers, self.better, self._prompt = [], [], 0, ""

    def rewards(self) -> list[float]:
        """The reward model's score of each answer.

        Raises RunError where there is no model or no answer, and where it cannot read so much.
        """
        if not self.answers:
            raise RunError("there is no answer to score yet")
        if self.judge is None:
            raise RunError("the run made no reward model: start again with --reward RUN#STAGE")
        if self._reward is None:
            self._reward = self.judge.reward()
        prompts, written = [self._prompt] * len(self.answers), [self._written(one) for one in self.answers]
        self._check_length(self._reward.encoder, written)
        return self._reward.predict(self._reward.encode(prompts, written)).reward.tolist()

    def _check_length(self, reader: RowEncoder | None, written: Sequence[Text]) -> None:
        most = reader.fit.most if reader else None
        if reader is None or most is None:
            return
        tokens = max(sum(map(len, reader.encode(self._prompt, one))) for one in written)
        if tokens > most:
            raise RunError(
                f"the conversation has {tokens} tokens with its answer, and the reward model takes {most}: "
                "/reset begins a new one, and a smaller --max-new-tokens makes answers shorter"
            )

    def prefer(self, number: int) -> dict[str, Any]:
        """Writes a preference row with the columns of TRL, and goes on from that answer.

        Args:
            number: the number of the better answer, 1 or 2.

        Raises:
            RunError: there are not two different answers, or the file cannot be written.
        """
        if len(self.answers) < 2:
            raise RunError("there are no two answers to compare: start with --beside, or ask for one more with /again")
        if number not in (1, 2):
            raise RunError(f"/better {number}: give 1 or 2, the number of the better answer")
        chosen, rejected = self.answers[number - 1], self.answers[2 - number]
        if chosen.text == rejected.text:
            raise RunError("the two answers are equal, so neither is better")
        texts = {"chosen": self._written(chosen), "rejected": self._written(rejected)}
        row = {"prompt": self._prompt, **texts, "chosen_by": chosen.by, "rejected_by": rejected.by}
        try:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise RunError(f"{self.file}: cannot be written: {error.strerror}") from error
        self.better = number - 1
        return row

    def _written(self, answer: Answer) -> Text:
        return answer.text if isinstance(self._prompt, str) else [{"role": "assistant", "content": answer.text}]


def text_ending(found: Sequence[Made], template: bool) -> tuple[str | None, list[str]]:
    """What ends each line where policies are given text, as the first that is noted was in training; and sentences.

    None where they are given messages.

    Args:
        found: the policies of a conversation.
        template: whether their base has a chat template; else all is text.
    """
    from rlhf_plugins.engine.prompt_form import Prompted

    noted = [(one, one.prompted()) for one in found]
    first = next((prompted for _, prompted in noted if prompted.forms), Prompted())
    lines = "each line is a prompt of its own, \\n a new line in it"
    lines += f", and {first.ending!r} is added as in training" if first.ending else ""
    if not template:
        return first.ending, [f"the base has no chat template: {lines}"]
    text, notes = first.as_text, []
    for one, prompted in noted:
        if one.folder and not prompted.forms:
            taken = "text" if text else "messages for the chat template"
            notes.append(f"{one.label} has no note whether it was trained on text or messages: lines are {taken}")
        elif prompted.forms and prompted.as_text != text:
            notes.append(f"{one.label} was trained on {' and '.join(prompted.forms)}, and is given the other's prompts")
        elif text and prompted.forms:
            before = ", from a policy of messages" if "messages" in prompted.start else ""
            notes.append(f"{one.label} was trained on text{before}: {lines}")
    return first.ending if text else None, notes


def judge_of(found: Made, words: str | None) -> Made | None:
    """The reward model that is named, or the last one of the policy's run; None where it made none."""
    from rlhf_plugins.data.stage_outputs import handed_on
    from rlhf_plugins.saved.run_reference import made

    if words:
        return made(words, "rewards")
    if found.run is None or not handed_on(found.run.finished(), "rewards"):
        return None
    return made(str(found.run.path), "rewards")


def reader_of(judge: Made | None) -> RowEncoder | None:
    """How a saved reward model reads, without its weights; None where there is none. Raises RunError."""
    from rlhf_plugins.engine.weights.loading import load_row_encoder
    from rlhf_plugins.reward_models.opening import saved_base

    return load_row_encoder(saved_base(judge.folder)) if judge and judge.folder else None
