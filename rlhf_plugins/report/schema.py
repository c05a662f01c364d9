"""The shape of `report.json`.

A number that could not be measured (NaN, infinity) is stored as null, so that the file is standard JSON.
"""

from __future__ import annotations

from math import isfinite, log
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value


FORMAT: Literal[2] = 2  # rises when a reader of the format before would misread the file
Number = Annotated[float | None, BeforeValidator(_finite)]
Count = Annotated[int, Field(ge=0)]
# A name labels plots and table rows: printable characters only, since XML cannot hold the others.
Name = Annotated[str, StringConstraints(pattern=r"^\P{C}+$")]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Interval(Record):
    """A mean and its 95% confidence interval."""

    mean: Number
    low: Number
    high: Number

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class PartReport(Interval):
    """A part of a score on the `n` prompts of which a response has it; `gain` is paired, from the reference."""

    n: Count
    gain: Interval | None = None


class PolicyReport(Record):
    """One policy on the `n` held-out prompts.

    `kl` is the sequence KL to the reference in nats per response, `length` is in tokens, `perplexity` is of held-out
    answers, `win_rate` and `distinct_*` are shares of 1, `cut` the share of responses that reached `max_new_tokens`,
    `gain` is the paired difference in `gold` from the reference on the same prompts, `normalised` is
    100 * (gold - reference) / (ceiling - reference), `out_of_distribution` is `gold` on prompts unlike those of
    training, `parts` are those of a reward that has some, `seconds` and `peak_bytes` are the cost of making the
    policy. Where a prompt got several responses, its score is their mean, which win rates compare, and `distinct_*` are
    of the first.

    `stage` made it, `start` is the policy that it was trained from, `start_gain` the paired difference from that one,
    and `behind` how much the best trained policy scores more. A `line` is no policy that anybody would use, such as
    best-of-n: others are read against it.
    """

    gold: Interval
    n: Count
    length: Number = None
    cut: Number = None
    perplexity: Number = None
    distinct_1: Number = None
    distinct_2: Number = None
    dimensions: dict[Name, Number] = {}
    parts: dict[Name, PartReport] = {}
    gain: Interval | None = None
    normalised: Number = None
    kl: Number = None
    kl_interval: Interval | None = None
    line: bool = False
    stage: str = ""
    start: str = ""
    start_gain: Interval | None = None
    behind: Interval | None = None
    win_rate: Interval | None = None
    win_p_value: Number = None
    out_of_distribution: Interval | None = None
    seconds: Number = None
    peak_bytes: Count | None = None


class Ceiling(Record):
    """The best of `n` responses of the reference by the gold reward itself: what `normalised` calls 100."""

    n: Annotated[int, Field(ge=1)]
    gold: Number

    @property
    def kl(self) -> float:
        """KL of best-of-n to its reference in nats: log n - (n - 1)/n (Stiennon et al. 2020, appendix G.3).

        It is an upper bound, met when no two responses tie (Beirami et al. 2024, theorem 1).
        """
        return log(self.n) - (self.n - 1) / self.n


class ReliabilityBin(Record):
    """The pairs whose predicted probability lies in [low, high]: its mean, and the share that was right."""

    low: float
    high: float
    confidence: Number
    accuracy: Number
    count: Count


class LabelsReport(Record):
    """A reward model on `n` held-out responses with a label, of which a share `desirable` has the label true.

    `accuracy` is the share whose reward is above 0 exactly where the label is true, `cross_entropy` the mean of
    -log sigmoid(reward) or -log sigmoid(-reward) in nats, and `auc` the probability that a desirable response has a
    higher reward than an undesirable one, of whatever prompts: it alone does not depend on where the reward is 0.
    """

    accuracy: Interval
    cross_entropy: Number
    auc: Number
    desirable: Number
    n: Count


class RewardModelReport(Record):
    """A reward model on `n` held-out pairs.

    `ece` and `mce` are the expected and the largest calibration error as shares of 1, `cross_entropy` is in nats;
    `spearman` and `kendall` correlate the ranks of its scores with those of the gold reward, or of people's ratings
    where that is unknown, `length_correlation` its scores with response length; `longer_response_accuracy` is that of
    the baseline which always prefers the longer response. `metrics` holds every other number that was measured.
    `latency` is the median of seconds that one pair alone takes; `seconds` and `peak_bytes` are the cost of training.
    `out_of_distribution` is the same on pairs unlike those of training, `labels` is measured on labelled responses.
    """

    accuracy: Number
    ece: Number
    n: Count
    accuracy_interval: Interval | None = None
    mce: Number = None
    brier: Number = None
    cross_entropy: Number = None
    auc: Number = None
    spearman: Number = None
    kendall: Number = None
    length_correlation: Number = None
    longer_response_accuracy: Number = None
    reliability: list[ReliabilityBin] = []
    metrics: dict[Name, Number] = {}
    latency: Number = None
    seconds: Number = None
    peak_bytes: Count | None = None
    out_of_distribution: RewardModelReport | None = None
    labels: LabelsReport | None = None


class RolloutReport(Record):
    """A response that a policy gave at a step of its training; `kl` is its log-ratio to the reference in nats.

    `parts` are those of its reward by name, `shaped_reward` and `advantage` what became of it, the second summed over
    tokens, and `left_out` is why the policy did not learn from it: empty where it did. `extra` is what reward functions
    logged of it by `log_extra`.
    """

    step: Count
    prompt: str
    response: str
    reward: Number
    gold: Number = None
    kl: Number = None
    tokens: Count | None = None
    shaped_reward: Number = None
    advantage: Number = None
    parts: dict[str, Number] = {}
    left_out: str = ""
    extra: dict[str, JsonValue] = {}


class CostReport(Record):
    """What a stage used; FLOPs are of the engine's forward and backward passes, a reward call scores one response.

    `forecast_bytes` is what `peak_bytes` was forecast to be, on a GPU.
    """

    seconds: Number = None
    flops: Number = None
    trained_tokens: Count = 0
    generated_tokens: Count = 0
    reward_calls: Count = 0
    peak_bytes: Count | None = None
    forecast_bytes: Count | None = None


class CurveReport(Record):
    """The (step, value) points of a number that a stage logged."""

    points: list[tuple[Count, Number]]
    unit: str = ""
    better: Literal["higher", "lower"] | None = None


class SectionReport(Record):
    """A part of the report that a stage writes: a heading, text, and a table where there are rows."""

    title: Name
    text: str = ""
    rows: list[dict[str, JsonValue]] = []

    @property
    def columns(self) -> list[str]:
        """The keys of all rows, in the order in which they first appear."""
        return list(dict.fromkeys(key for row in self.rows for key in row))


class StageReport(Record):
    """One stage of the recipe; `stage` is the registered name of it, `metrics` are further numbers as it left them.

    `rollouts` are responses from its beginning and its end, where it trained a policy on its own samples; `opened` is
    what it opened of earlier stages, such as `dpo.policies.dpo`. `start` is the policy that it started from, and
    `reference` the one that its KL is measured to, as far as it has them.
    """

    name: Name
    stage: Name
    cost: CostReport = CostReport()
    curves: dict[Name, CurveReport] = {}
    rollouts: list[RolloutReport] = []
    sections: list[SectionReport] = []
    metrics: dict[str, JsonValue] = {}
    opened: list[Name] = []
    start: str = ""
    reference: str = ""


class Response(Record):
    text: str
    gold: Number = None
    reward: Number = None


class Sample(Record):
    """A prompt once, and what each policy answered."""

    prompt: str
    responses: dict[Name, Response]


class RowsReport(Record):
    """Rows of a stage's own data."""

    train: Count
    test: Count


class DataReport(Record):
    """Rows of the recipe's data and of stages that have their own, and rows dropped by reason.

    Any further key is shown as it is.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, JsonValue]

    train: Count
    test: Count
    dropped: dict[str, Count] = {}
    of_stages: dict[Name, RowsReport] = {}


class Hardware(Record):
    cpu: str
    cores: Count
    memory_bytes: Count
    platform: str
    gpu: str | None = None


class PluginReport(Record):
    name: str
    distribution: str | None
    version: str | None


class JudgeReport(Record):
    """What scored the responses: `stage` trained it, where a stage of this run did; `name` says what it is.

    `digest` is of the weights that this stage saved: two runs with the same one have scores on one scale.

    Of `pairs`, a score is the probability that the response is better than the reference's, and `failed` is the share
    of comparisons without a usable answer.
    """

    kind: Literal["gold", "reward model", "function", "pairs", "loss"]
    name: str = ""
    stage: str = ""
    digest: str = ""
    failed: Number = None


class EvaluationReport(Record):
    """Policies that one stage judged on the same prompts; scores of different judges are not comparable."""

    policies: dict[Name, PolicyReport]
    reference: Name | None = None
    score_name: Name = "gold reward"
    judge: JudgeReport | None = None


class Report(Record):
    """A whole run. `reference` is the policy that others are measured against; policies keep their order.

    `policies`, `reference`, `score_name` and `judge` are of the last evaluation, `evaluations` are the earlier ones by
    stage.
    `reward_model` is the one that the policies were evaluated with; `reward_models` are those that were themselves
    evaluated, by the stage that trained each.
    """

    format: Literal[2] = FORMAT
    title: str
    started: AwareDatetime
    finished: AwareDatetime
    status: Literal["finished", "interrupted", "failed", "running"]
    progress: str = ""  # where a run is that goes on
    recipe: dict[str, JsonValue]
    versions: dict[str, str]
    hardware: Hardware
    data: DataReport
    plugins: list[PluginReport] = []
    stages: list[StageReport] = []
    policies: dict[Name, PolicyReport] = {}
    reference: Name | None = None
    ceiling: Ceiling | None = None
    reward_model: RewardModelReport | None = None
    reward_models: dict[Name, RewardModelReport] = {}
    score_name: Name = "gold reward"
    judge: JudgeReport | None = None
    evaluations: dict[Name, EvaluationReport] = {}
    samples: list[Sample] = []
    notes: list[str] = []

    @property
    def measured_reward_models(self) -> dict[str, RewardModelReport]:
        """`reward_models` or, where there is none, `reward_model`."""
        name = "judge" if self.judge and self.judge.kind == "pairs" else "reward model"
        return self.reward_models or ({name: self.reward_model} if self.reward_model else {})

    @model_validator(mode="before")
    @classmethod
    def _of_this_format(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("format", FORMAT) != FORMAT:
            raise ValueError(f"it has format {values['format']}, and this version reads {FORMAT}: upgrade rlhf-plugins")
        return values

    @model_validator(mode="after")
    def _reference_is_a_policy(self) -> Report:
        if self.reference is not None and self.reference not in self.policies:
            known = ", ".join(self.policies) or "none"
            raise ValueError(f"reference {self.reference!r} is not a policy (known: {known})")
        return self
