"""The stage `evaluate`: measures every policy and the reward model of a run on held-out prompts and pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from rlhf_plugins.contract.component import Earlier, uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Metric
from rlhf_plugins.contract.rows import Data
from rlhf_plugins.contract.run import Adapter, Run, StageResult
from rlhf_plugins.contract.run_kinds import DataFormat, Judge, Reward, Stage, Task
from rlhf_plugins.contract.sampling import fault, options_of
from rlhf_plugins.contract.workload import PLENTY, Course, Known, Work, Workload
from rlhf_plugins.stages._course import of_evaluation
from rlhf_plugins.stages._training_options import CacheTokens, distinct, sampling


@dataclass(frozen=True)
class Evaluate(Stage, makes={"evaluation"}, judges=True, scores_prompts=True, processes="several"):
    """Scores responses of each policy to each held-out prompt against those of one that they are all compared with.

    Of several `responses` a prompt's score is their mean, and win rates compare these means.
    The judge is `reward`, which scores each response, or `judge`, which compares it with the reference's. Without
    them it is the gold reward where the data has one, else the run's latest reward model, which then judges policies
    that may have been trained against it. A run without any of these is evaluated by the likelihood of held-out answers
    alone. The report names the judge.
    """

    prompts: Annotated[int, Field(ge=2, description="held-out prompts of each kind")] = 256
    responses: Annotated[int, Field(ge=1, description="of each policy to a prompt, of which a score is the mean")] = 1
    best_of: Annotated[int, Field(ge=1, description="n of best-of-n against the reward model")] = 16
    ceiling: Annotated[int, Field(ge=2, description="n of best-of-n by gold, the 100 of the normalised score")] = 64
    max_new_tokens: Annotated[int, Field(ge=1, description="where a response is cut")] = 64
    temperature: Annotated[float, Field(ge=0, description="of sampling; 0 decodes greedily")] = 1.0
    top_p: Annotated[
        float, Field(gt=0, le=1, description="samples from the fewest likely tokens with this probability")
    ] = 1.0
    top_k: Annotated[int, Field(ge=0, description="samples from so many likely tokens; 0: from all")] = 0
    min_p: Annotated[
        float, Field(ge=0, le=1, description="samples from tokens at least this share as likely as the likeliest")
    ] = 0.0
    repetition_penalty: Annotated[
        float, Field(gt=0, description="above 1: makes tokens of the text so far less likely")
    ] = 1.0
    reward: Reward | None = uses("reward", optional=True)
    judge: Judge | None = uses("judge", optional=True)
    metrics: tuple[Metric, ...] = uses("metric", ["accuracy", "calibration", "auc", "rank_correlation", "length_bias"])
    tasks: tuple[Task, ...] = uses("task", [])
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    reference: Annotated[
        Annotated[
            str, Field(description="what scores and KL are compared with: `base`, `below` it, or an earlier policy")
        ],
        Earlier("policy", ("base", "below")),
    ] = "base"
    tokens_per_batch: Annotated[int, Field(ge=1, description="tokens in memory at once, in any pass")] = 8_192
    cache_tokens: CacheTokens = None
    name: str = "evaluate"

    def __post_init__(self) -> None:
        """Raises ValueError where there are two judges, or options of sampling change nothing."""
        if self.reward is not None and self.judge is not None:
            raise ValueError("`reward` scores responses and `judge` compares them: give one of the two")
        if self.responses > 1 and self.temperature == 0:
            raise ValueError("responses: at temperature 0 all responses to a prompt are the same")
        if wrong := fault(self.temperature, options_of(self)):
            raise ValueError(wrong)
        distinct(self.tasks)

    def fits_data(self, data: Data) -> None:
        """Raises ValueError where fewer than two prompts are held out, of which no interval can be given."""
        count = max(len(data.prompts.get("test", ())), len({str(group.prompt) for group in data.test}))
        if count < 2:
            raise ValueError(
                f"the data hold out {count or 'no'} prompt, and an evaluation needs at least 2: give more rows, or "
                "hold out more of them (`test_fraction`, `test_source` or `test_prompts` of the data)"
            )

    def workload(self, adapter: Adapter | None) -> Workload:
        """Samples of the policies, their log-probabilities, and the judge's scores."""
        from rlhf_plugins.engine.decoding import AT_ONCE
        from rlhf_plugins.engine.token_budget import CACHE_TOKENS

        responses = max(self.best_of + 1, self.responses)
        part: dict[str, Any] = {"prompt_tokens": None, "response_tokens": self.max_new_tokens}
        many = {**part, "tokens": self.tokens_per_batch}
        works = [
            Work("generation", "sample", AT_ONCE, 1, **part, tokens=self.cache_tokens or CACHE_TOKENS),
            Work("evaluate", "score", PLENTY, 1, **many),
            Work("scoring", "score", PLENTY, responses, rewards=True, **many),
            *sampling(self.tasks, self.cache_tokens),
        ]
        return Workload(works, adapters=2, models=2 * (adapter is None))

    def course(self, known: Known) -> Course:
        """Its length, by the samples that it draws."""
        chooses = known.rewards and self.best_of > 1 and self.temperature > 0
        below = self.reference == "below" or (self.reference == "base" and known.policies == 1)
        own = known if below and known.below else replace(known, below="")
        return of_evaluation(self, own, self.best_of if chooses else 0)

    def rehearse(self, run: Run) -> None:
        """Refuses too few askable prompts."""
        from rlhf_plugins.engine.weights.loading import load_policy_encoder
        from rlhf_plugins.stages._evaluation import askable

        askable(self, run.data.prompts.get("test", ()), load_policy_encoder(run.base))

    def run(self, run: Run) -> StageResult:
        """Leaves nothing but its result: an evaluation, and parts of the report."""
        from rlhf_plugins.engine.token_budget import room
        from rlhf_plugins.stages._evaluation import EvaluateRun

        with room(self.tokens_per_batch, self.cache_tokens):
            return EvaluateRun(self, run).result()


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"evaluate": Evaluate}
