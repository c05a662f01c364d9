"""The kinds of components that a run is made of: stages, data, rewards, generators, judges, monitors and others.

Most have a `build`, which returns the function that does the work, since they hold weights or need the run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rlhf_plugins.contract.component import CARRIED, COLUMNS, MADE, Component, answer_checks, trait
from rlhf_plugins.errors import nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rlhf_plugins.contract.handles import Policy
    from rlhf_plugins.contract.records import Prediction, Verdict
    from rlhf_plugins.contract.rows import Data, Group, Samples, Text
    from rlhf_plugins.contract.run import Adapter, Alarm, Base, Run, StageResult, Step, Weights
    from rlhf_plugins.contract.selection import Choice, Situation
    from rlhf_plugins.contract.workload import Course, Kept, Known, Workload

SMALL_THEN_LARGE = re.compile(r"(?<=[a-z])(?=[A-Z])")  # where a word begins in the name of a class
RewardFunction = Callable[["Samples"], "Prediction | Sequence[float | Mapping[str, float | None] | None]"]
JudgeFunction = Callable[["Sequence[Text]", "Sequence[str]", "Sequence[str]"], "Sequence[Verdict]"]
EnvironmentFunction = Callable[["Samples"], "Sequence[Text | None]"]


class Reward(Component, kind="reward"):
    """Scores responses; `build` binds it to the run."""

    @property
    def part_name(self) -> str:
        """The name of its curve where it is a part of another reward; a number follows where two parts have one name.

        It is what a recipe calls it.
        """
        return SMALL_THEN_LARGE.sub("_", self.recipe_name).lower()

    def part_names(self) -> Sequence[str]:
        """The names of the parts that every response has, as far as they are known before it scores any."""
        return ()

    def reads_columns(self) -> frozenset[str]:
        """Columns of the prompts' rows that it cannot do without; those that its parts read are not among them."""
        return frozenset()

    def can_score(self, prompt: Group) -> bool:
        """For `rlhf check`, before it is built: whether it scores responses to this prompt; else it abstains.

        Raises RunError where it would raise that for every response.
        """
        return True

    def saved_aggregation(self) -> Mapping[str, Any] | None:
        """For `rlhf check`: the aggregation, as a spec, of a saved ensemble that it opens; None: none, or unknown.

        An aggregation may compare the responses to a prompt.
        """
        return None

    def build(self, run: Run) -> RewardFunction:
        """A function from B samples to a `Prediction`, or to B numbers, None where it abstains.

        In the place of a number there may be a dict, whose `score` is the number and whose further numbers are the
        prediction's `dimensions`: curves such as `reward/format`, and parts in the table of samples.
        The function may have state. It raises RewardUnavailable where it may be asked again later.
        """
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Prediction:
        """A Prediction of B rewards."""
        return answer_checks().rewards(answer, inputs[0])


class Generator(Component, kind="generator"):
    """Answers prompts: a trained policy, a mixture, a server; `build` binds it to the run."""

    named: ClassVar[tuple[str, str] | None] = ("policy", "name")

    def build(self, run: Run) -> Policy:
        """A policy."""
        raise NotImplementedError

    def saved_at(self, base: Weights) -> Weights | None:
        """Where its weights are, given the run's base; None where it is no saved model, which no stage can train."""
        return None

    def check_built(self, made: Any) -> None:
        """A policy answers prompts."""
        answer_checks().policy(made)


class Judge(Component, kind="judge"):
    """Compares two responses to a prompt; `build` binds it to the run."""

    def build(self, run: Run) -> JudgeFunction:
        """A function from n prompts, n first and n second responses to n verdicts. A failure is a verdict too.

        Raises RunError where nothing can be judged at all, such as a server that cannot be reached.
        """
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Sequence[Verdict]:
        """A verdict for each prompt."""
        return answer_checks().verdicts(answer, len(inputs[0]))


class Environment(Component, kind="environment"):
    """Writes what follows a response in a conversation, such as a user's next turn; `build` binds it to the run."""

    def build(self, run: Run) -> EnvironmentFunction:
        """A function from B samples, whose prompts are the conversations so far, to what follows each.

        That is None where the conversation ends. To messages, a text is what the user says, and messages are taken as
        they are, such as a tool's, the last not the assistant's; to plain text, a text follows the response as it is,
        with its own separators. In several processes all of them ask it, and the main one's answer holds.
        """
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Sequence[Text | None]:
        """A text, messages or None for each response."""
        return answer_checks().turns(answer, inputs[0])


class Monitor(Component, kind="monitor"):
    """Watches a training; `build` binds it to the run."""

    reads_rollouts: ClassVar[bool] = trait(False, "reads numbers of rollouts; refused in a stage that makes none")
    watches: ClassVar[str] = trait("", "the option whose numbers it reads; refused in a stage where that is `none`")

    def build(self, run: Run) -> Callable[[Step], Alarm | None]:
        """A function that is called after every step, and may raise an alarm that stops or slows the training."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Alarm | None:
        """An Alarm, or None."""
        return answer_checks().alarm(answer)


class Regularizer(Component, kind="regularizer"):
    """A term added to the loss of any trainer, such as EWC or L2-SP; `build` binds it to the run and the model."""

    def build(self, run: Run, model: nn.Module) -> Callable[[], Tensor]:
        """A function without arguments that returns a scalar with a gradient; called once per optimizer step."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Tensor:
        """A finite scalar with a gradient."""
        return answer_checks().term(self, answer)


class Selector(Component, kind="selector"):
    """Recommends an algorithm for data and resources; with `build(run)` instead where it trains to compare them."""

    def __call__(self, situation: Situation) -> Sequence[Choice]:
        """-> every algorithm of the situation once, the best first."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> list[Choice]:
        """Every algorithm once, with scores that are numbers within their intervals."""
        return answer_checks().choices(answer, inputs[0])


class Task(Component, kind="task"):
    """Measures policies on rows of its own; `build` binds it to the run."""

    better: ClassVar[Literal["higher", "lower"]] = trait(
        "higher", "which share is the better one", choices=("higher", "lower")
    )

    name: str

    def sampled(self) -> tuple[int, int]:
        """The most answers that it samples of a policy, and the most tokens of each; for the forecast."""
        return 0, 0

    def asked(self, run: Run) -> Sequence[Group] | None:
        """For `rlhf check`: the rows that it measures on; None is unknown. It raises what `build` raises about them.

        It may open the tokenizer and the configuration of the base, not its weights.
        """
        return None

    def build(self, run: Run) -> Callable[[Policy], Sequence[float]]:
        """A function of a policy to a number from 0 to 1 for each row; the rows are the same for every policy."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> list[float]:
        """A number from 0 to 1 for each row."""
        return answer_checks().shares(answer)


class DataFormat(Component, kind="data_format"):
    """Reads rows from somewhere."""

    renamed: ClassVar[Mapping[str, str]] = {
        "weight": "unknown option (did you mean weights? a mix has a number for each part: `weights: [2, 1]` beside "
        "`parts`)"
    }
    ordered: ClassVar[bool] = trait(False, "the columns themselves say which response is better")
    answered: ClassVar[bool] = trait(True, "its rows hold answers to the prompts")

    @staticmethod
    def recognises(fields: Mapping[str, Any]) -> bool:
        """Whether a row with these fields can only be of this format."""
        return False

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError when the source cannot be read."""
        raise NotImplementedError

    def load_in(self, run: Run) -> Data:
        """The rows of a stage that has `data` of its own. Raises DataError as `load` does."""
        return self.load(run.base, run.seed)

    def at_hand(self) -> bool:
        """Whether `rlhf check` may call `load`: it is quick, and needs no model, no download and no code of a user."""
        return False

    def known_gold(self) -> bool | None:
        """Whether a gold reward comes with its rows; None is unknown."""
        return None

    def known_columns(self) -> frozenset[str] | None:
        """Which of `COLUMNS` its rows have, if that is known without a download or a model; None is unknown."""
        return None

    def known_rows(self) -> int | None:
        """About how many rows there are to train on, if that is known without a download or a model."""
        return None


class DataStep(Component, kind="data_step"):
    """Changes loaded rows before anything is trained on them: leaves some out, adds some, weighs or labels them.

    One that asks a model has `build(run)` instead, to a function of the same arguments, for the `data` of a stage.
    """

    ordered: ClassVar[bool] = trait(False, "makes rows whose columns themselves say which response is better")
    answered: ClassVar[bool] = trait(False, "gives prompts responses")
    writes: ClassVar[frozenset[str]] = trait(frozenset(), "columns of the rows that it fills in", choices=COLUMNS)

    def __call__(self, data: Data, seed: int) -> Data:
        """-> the same with other training rows; rows that are left out are counted in `dropped` by reason."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Data:
        """Data with the held-out rows as they were, and no training row gone that is not counted."""
        return answer_checks().prepared(answer, inputs[0])


class Stage(Component, kind="stage"):
    """One block of a recipe's `stages`."""

    makes: ClassVar[frozenset[str]] = trait(frozenset(), "what it makes for later stages", choices=MADE)
    writes: ClassVar[frozenset[str]] = trait(
        frozenset(),
        "every column of the data that it makes, `ranks` too; empty: not known, so nothing is checked",
        choices=COLUMNS,
    )
    reserved: ClassVar[frozenset[str]] = trait(frozenset(), "options of its `trainer` block that a recipe may not set")
    judges: ClassVar[bool] = trait(False, "needs something to judge by: a reward, a true reward, or held-out answers")
    processes: ClassVar[str] = trait("one", "whether several processes may run it together", choices=("one", "several"))
    shards: ClassVar[bool] = trait(False, "trains weights that several processes hold in shards (FSDP2, ZeRO-3)")
    zero: ClassVar[bool] = trait(False, "trains with an optimizer that several processes hold in parts (ZeRO)")
    reads_answers: ClassVar[bool] = trait(False, "trains on the responses of its rows")
    scores_prompts: ClassVar[bool] = trait(
        False, "its rewards score responses to the prompts of its data: `rlhf check` compares their columns"
    )
    of_trl: ClassVar[Mapping[str, str]] = {}  # options of TRL's trainer that it lacks, each with what to write instead
    makes_rollouts: ClassVar[bool] = trait(True, "may train on rollouts, so that monitors may read these")
    carries: ClassVar[frozenset[str]] = trait(
        frozenset(), "state of its start policy's training that it can take over, as `run.carry` asks", choices=CARRIED
    )

    name: str
    data: DataFormat | None = None  # rows of its own; None: the run's
    from_: str = "previous"  # the policy that it starts from: `base`, `previous`, or the name of an earlier one
    reference: str = "start"  # the policy that its KL is measured to: `base`, `start`, or the name of an earlier one
    trainer: Mapping[str, Any] | None = None  # options of its trainer; None: it has no trainer
    optimizer: Literal["new", "start"] = "new"  # start: the state that the stage of its start policy kept
    keep_optimizer: bool | None = None  # whether it keeps its optimizer's state for later stages; None is unknown
    early_stopping_patience: int | None = None  # evaluations without improvement before it ends; None: it never does

    @property
    def reads_reference(self) -> bool:
        """Whether anything reads the policy that `reference` names; messages leave it out where nothing does."""
        return True

    def fits(self, adapter: Adapter | None) -> None:
        """Raises ValueError where the recipe's adapter contradicts these options."""

    def unread(self, written: Collection[str]) -> Mapping[str, str]:
        """The options among those `written` in a recipe that nothing would read, each with the reason."""
        return {}

    def fits_processes(self, count: int) -> None:
        """Raises ValueError where `count` processes cannot run it with these options."""

    def fits_data(self, data: Data) -> None:
        """Raises ValueError where it cannot run on these rows, the recipe's or its own.

        It is called before any stage trains and again when the stage starts, since an earlier stage may make its rows.
        """

    def rehearse(self, run: Run) -> Kept | None:
        """For `rlhf check`: does what `run` does before it loads weights. It is quick, and writes nothing.

        It returns what it would train on, where that is known, so that the check can count the rows left out. It may
        open the tokenizer and the configuration of the base; `run.finished` is empty.

        Raises:
            RlhfError: what `run` would raise, such as RunError for a missing package, DataError where no row is left.
        """
        return None

    def workload(self, adapter: Adapter | None) -> Workload | None:
        """What it computes and keeps in memory, for the forecast of its memory; None is unknown."""
        return None

    def course(self, known: Known) -> Course | None:
        """Its number of steps, episodes and tokens, for `rlhf check` and the time left; None is unknown."""
        return None

    def setting(self, name: str) -> Any:
        """An option of its trainer, given or by default; None is unknown."""
        return None

    def held_out_numbers(self, gold: bool) -> frozenset[str] | None:
        """The names, without `eval_`, of what `trainer.eval_strategy` measures on held-out rows; None is unknown.

        Args:
            gold: whether the data may know the true reward.
        """
        return None

    def keeping(self, carry: Collection[str]) -> Any:
        """The stage, with `keep_optimizer` where `carry` names the optimizer.

        Raises:
            ValueError: `carry` names a state that this stage cannot take over.
        """
        for word in sorted(set(carry) - self.carries):
            if word not in CARRIED:
                raise ValueError(f"carry: unknown word {word!r} {nearest(word, CARRIED)}")
            goes_on = ", ".join(sorted(self.carries)) or "nothing"
            raise ValueError(f"carry: the stage {self.name} can go on with {goes_on}, not with {word!r}")
        own: Any = self
        return replace(own, keep_optimizer=True) if "optimizer" in carry and self.keep_optimizer is False else own

    def run(self, run: Run) -> StageResult:
        """Trains or measures, writes its files to `run.folder`, and returns what it made."""
        raise NotImplementedError
