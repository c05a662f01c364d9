"""Steps that have a model write responses: answers to be imitated, and pairs of a stronger and a weaker model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.rows import CUT_SHORT, EMPTY, FAILED, Group, Text
from rlhf_plugins.contract.run_kinds import DataStep, Generator, Reward
from rlhf_plugins.data.changes.steps import AT_ONCE, copied, made_of, remembered
from rlhf_plugins.data.fields import key
from rlhf_plugins.data.turns import as_response
from rlhf_plugins.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rlhf_plugins.contract.handles import Policy
    from rlhf_plugins.contract.rows import Data, Samples
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.contract.run_kinds import RewardFunction

    Step = Callable[[Data, int], Data]

REPEATED = "another row of the prompt"
UNSCORED = "no reward"
APART = 1_000_003  # between the seeds of two models, which would else write alike where they are alike
Temperature = Annotated[float, Field(ge=0, description="of the sampling; 0 is the most likely response")]
Most = Annotated[int, Field(ge=1, description="tokens of a response; one that has as many is left out as cut")]


class Written(NamedTuple):
    """What a model answered, and why that cannot be used."""

    text: str
    reason: str | None


@dataclass(frozen=True)
class Answered(DataStep, answered=True):
    """Gives each prompt the response of another model, for `sft`: distillation by sequences (Kim and Rush 2016).

    With a reward it is the best of `n` responses, of those that are whole (best-of-n, Stiennon et al. 2020).
    The rows of a prompt become one row, with this response alone: what was known of other responses is gone, topic and
    further columns stay. A prompt is left out, and counted, where the response is empty, cut, or does not come.
    """

    generator: Generator = uses("generator")
    reward: Reward | None = uses("reward", optional=True)
    n: Annotated[int, Field(ge=1, description="responses to each prompt, of which the reward chooses one")] = 1
    temperature: Temperature = 0.7
    max_new_tokens: Most = 256

    def __post_init__(self) -> None:
        if (self.n > 1) != (self.reward is not None):
            raise ValueError("n: a reward chooses among two or more responses; give both `reward` and `n`, or neither")

    def build(self, run: Run) -> Step:
        """What it builds raises RunError where the model does not load or the server answers nothing."""
        writer = _Writer(run, self.generator, self.temperature, self.max_new_tokens, self.n)

        def answered(data: Data, seed: int) -> Data:
            prompts = [group.prompt for group in _asked(data)]
            written = writer.responses(prompts, seed)
            found = written if self.reward is None else _best(run, self.reward, prompts, written)
            return _with_responses(data, "answered", [(one[0],) for one in found])

        return answered


@dataclass(frozen=True)
class Paired(DataStep, writes={"ranks"}, answered=True, ordered=True):
    """A pair for each prompt: a stronger model's response, taken as the better one, and a weaker model's.

    Nobody judged these pairs (synthetic comparisons as of Kim et al. 2023): put `confirmed` after it, with a judge that
    is neither of the two. A prompt is left out, and counted, where a response is empty, cut, or does not come, or both
    are equal. The rows of a prompt become one pair; topic and further columns stay.
    """

    stronger: Generator = uses("generator")
    weaker: Generator = uses("generator", "base")
    temperature: Temperature = 0.7
    max_new_tokens: Most = 256

    def build(self, run: Run) -> Step:
        """What it builds raises RunError where a model does not load or a server answers nothing."""
        writers = [_Writer(run, one, self.temperature, self.max_new_tokens) for one in (self.stronger, self.weaker)]

        def paired(data: Data, seed: int) -> Data:
            prompts = [group.prompt for group in _asked(data)]
            stronger, weaker = (one.responses(prompts, seed + APART * place) for place, one in enumerate(writers))
            return _with_responses(data, "paired", [(a, b) for (a,), (b,) in zip(stronger, weaker, strict=True)])

        return paired


@dataclass(frozen=True)
class _Writer:
    """A model that answers prompts once in a stage, also where the run is killed in between."""

    run: Run
    generator: Generator
    temperature: float
    most: int
    n: int = 1

    @cached_property
    def policy(self) -> Policy:
        return self.generator.build(self.run)

    def responses(self, prompts: Sequence[Text], seed: int) -> list[list[Written]]:
        """`n` responses to each prompt."""
        found = list[Written]()
        for start in range(0, len(prompts), AT_ONCE):
            part = prompts[start : start + AT_ONCE]
            given = [self.run.spec(self.generator), self.temperature, self.most, self.n, part, seed + start]
            made = remembered(self.run, given, partial(self._write, part, seed + start))
            found += [Written(*one) for one in made]
        return [found[place : place + self.n] for place in range(0, len(found), self.n)]

    def _write(self, prompts: Sequence[Text], seed: int) -> list[Written]:
        with self.policy as policy:
            samples = policy.sample(prompts, self.n, temperature=self.temperature, max_new_tokens=self.most, seed=seed)
        full = [CUT_SHORT if len(ids) >= self.most else None for ids in samples.response_ids]
        reasons = samples.columns.get(FAILED, full)  # a server says itself what it cut
        pairs = zip(samples.responses, reasons, strict=True)
        return [Written(text, why or (None if text.strip() else EMPTY)) for text, why in pairs]


def _best(
    run: Run, reward: Reward, prompts: Sequence[Text], written: Sequence[Sequence[Written]]
) -> list[list[Written]]:
    """For each prompt the complete response with the highest reward, or why there is none."""
    built, found = cache(lambda: reward.build(run)), list[list[Written]]()
    for start in range(0, len(prompts), AT_ONCE):
        both = list(zip(prompts, written, strict=True))[start : start + AT_ONCE]
        whole = [(prompt, one.text) for prompt, some in both for one in some if one.reason is None]
        scores = iter(remembered(run, [run.spec(reward), whole], partial(_scores, run, built, whole)))
        for _, some in both:
            scored = [(next(scores), one) for one in some if one.reason is None]
            best = max((pair for pair in scored if pair[0] is not None), key=lambda pair: pair[0], default=None)
            none = [Written("", UNSCORED)] if scored else some[:1]
            found.append(list(none) if best is None else [best[1]])
    return found


def _scores(run: Run, built: Callable[[], RewardFunction], rows: Sequence[tuple[Text, str]]) -> list[float | None]:
    """The reward of each response; None where it abstains or cannot read it."""
    from rlhf_plugins.reward_models.handle import reward_handle, rewards

    handle = reward_handle(built())
    encode = run.reference().encode if handle.encoder is None else handle.encode
    answers = [as_response(prompt, text) for prompt, text in rows]
    read = [place for place, row in enumerate(rows) if _is_readable(encode, row[0], answers[place])]
    count = Counter(key(rows[place][0]) for place in read)
    alone = {place for place in read if handle.compares and count[key(rows[place][0])] == 1}  # the best, being the only
    found: list[float | None] = [0.5 if place in alone else None for place in range(len(rows))]
    read = [place for place in read if place not in alone]
    if read:
        samples = encode([rows[place][0] for place in read], [answers[place] for place in read])
        for place, value in zip(read, rewards(handle.predict(samples)), strict=True):
            found[place] = value
    return found


def _is_readable(encode: Callable[..., Samples], prompt: Text, answer: Text) -> bool:
    try:
        encode([prompt], [answer])
    except DataError:
        return False
    return True


def _asked(data: Data) -> list[Group]:
    """The first row of each prompt."""
    found: dict[str, Group] = {}
    for group in data.train:
        found.setdefault(key(group.prompt), group)
    return list(found.values())


def _with_responses(data: Data, step: str, written: Sequence[tuple[Written, ...]]) -> Data:
    """A row of each prompt with what was written for it, the best first; the others counted by their reason."""
    dropped, train, asked = copied(data), list[Group](), _asked(data)
    first = set(map(id, asked))
    for group in data.train:
        if id(group) not in first:
            dropped.add(f"{step}: {REPEATED}", str(group.origin or "a row"))
    for group, found in zip(asked, written, strict=True):
        reason = next((one.reason for one in found if one.reason), None)
        if reason is None and len({one.text for one in found}) < len(found):
            reason = "equal responses"
        if reason:
            dropped.add(f"{step}: {reason}", str(group.origin or "a row"))
        else:
            texts = tuple(as_response(group.prompt, one.text) for one in found)
            train.append(made_of(group, step, texts))
    return replace(data, train=tuple(train), dropped=dropped)


@hookimpl
def register_data_step() -> dict[str, type]:
    """The steps of this file."""
    return {"answered": Answered, "paired": Paired}
