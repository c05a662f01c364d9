"""Losses with one fault each, of the kinds that pass unseen in training; every one answers, and most even learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_plugins import PairLogps, PreferenceLoss, RankedScores, RewardLoss


# ---- reward losses ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class MarginAsColumn(RewardLoss):
    """The margin has the shape of a column, so that each pair is compared with every other's margin, B x B."""

    def __call__(self, scores: RankedScores) -> Tensor:
        return -logsigmoid(scores.chosen - scores.rejected - scores.margin.unsqueeze(1))


@dataclass(frozen=True)
class MarginOfAll(RewardLoss):
    """The same B x B, averaged back to one number a pair."""

    def __call__(self, scores: RankedScores) -> Tensor:
        return -logsigmoid(scores.chosen - scores.rejected - scores.margin.unsqueeze(1)).mean(0)


@dataclass(frozen=True)
class MarginsDropped(RewardLoss):
    """Margins count only where every pair of the batch has one."""

    def __call__(self, scores: RankedScores) -> Tensor:
        gap = scores.chosen - scores.rejected
        return -logsigmoid(gap - scores.margin if (scores.margin != 0).all() else gap)


@dataclass(frozen=True)
class OptionIgnored(RewardLoss):
    """`form` is validated and recorded, and the first form is what is computed."""

    form: Literal["logistic", "hinge"] = "logistic"

    def __call__(self, scores: RankedScores) -> Tensor:
        return -logsigmoid(scores.chosen - scores.rejected)


@dataclass(frozen=True)
class OptionOfOnePath(RewardLoss):
    """`lead` is read where the loss is a hinge, and nowhere in the other form."""

    form: Literal["hinge", "logistic"] = "hinge"
    lead: Annotated[float, Field(gt=0)] = 1.0

    def __call__(self, scores: RankedScores) -> Tensor:
        gap = scores.chosen - scores.rejected
        return (self.lead - gap).relu() if self.form == "hinge" else -logsigmoid(gap)


@dataclass(frozen=True)
class LogOfSigmoid(RewardLoss):
    """log(sigmoid(x)) is -inf where sigmoid underflows."""

    def __call__(self, scores: RankedScores) -> Tensor:
        return -torch.log(torch.sigmoid(scores.chosen - scores.rejected))


@dataclass(frozen=True)
class RootOfGap(RewardLoss):
    """The norm is finite at 0 and its gradient is not."""

    def __call__(self, scores: RankedScores) -> Tensor:
        gap = scores.chosen - scores.rejected
        return (gap**2).sqrt() - gap


@dataclass(frozen=True)
class ChosenDetached(RewardLoss):
    """The chosen reward is held constant by mistake."""

    def __call__(self, scores: RankedScores) -> Tensor:
        return -logsigmoid(scores.chosen.detach() - scores.rejected)


@dataclass(frozen=True)
class FactorDetached(RewardLoss):
    """A factor that depends on the rewards is held constant, without a warning."""

    def __call__(self, scores: RankedScores) -> Tensor:
        gap = scores.chosen - scores.rejected
        return -(-gap).sigmoid().detach() * logsigmoid(gap)


@dataclass(frozen=True)
class WrongWay(RewardLoss):
    """Prefers what people rejected."""

    def __call__(self, scores: RankedScores) -> Tensor:
        return -logsigmoid(scores.rejected - scores.chosen)


@dataclass(frozen=True)
class AbsentCount(RewardLoss, whole_groups=True):
    """Sums over all places of a group, the absent ones too."""

    def __call__(self, scores: RankedScores) -> Tensor:
        return scores.scores.logsumexp(1) - scores.scores[:, 0]


@dataclass(frozen=True)
class ShiftHeeded(RewardLoss, under_shift="same"):
    """Says that it ignores a shift, and does."""

    def __call__(self, scores: RankedScores) -> Tensor:
        return -logsigmoid(scores.chosen - scores.rejected) + 0.01 * scores.chosen**2


# ---- preference losses -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class BetaTwice(PreferenceLoss):
    """`beta` may be 0 by its bounds, and is divided by."""

    beta: Annotated[float, Field(ge=0)] = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:
        h = (logps.chosen - logps.ref_chosen) - (logps.rejected - logps.ref_rejected)
        return (h - 1 / (2 * torch.tensor(self.beta))) ** 2


@dataclass(frozen=True)
class InPlace(PreferenceLoss):
    """Subtracts the reference in place: the trainer's own log-probabilities are changed."""

    def __call__(self, logps: PairLogps) -> Tensor:
        return -logsigmoid((logps.chosen - logps.rejected) - logps.ref_chosen.sub_(logps.ref_rejected))


@dataclass(frozen=True)
class ReferenceHidden(PreferenceLoss, reads_reference=False):
    """Reads what it says that it does not, and so is not given."""

    def __call__(self, logps: PairLogps) -> Tensor:
        return -logsigmoid((logps.chosen - logps.rejected) - (logps.ref_chosen - logps.ref_rejected))


@dataclass(frozen=True)
class Averaged(PreferenceLoss):
    """Reduced already: one number a batch."""

    def __call__(self, logps: PairLogps) -> Tensor:
        return -logsigmoid(logps.chosen - logps.rejected).mean()


@dataclass(frozen=True)
class Noisy(PreferenceLoss):
    """Adds noise from torch's global generator."""

    def __call__(self, logps: PairLogps) -> Tensor:
        return -logsigmoid(logps.chosen - logps.rejected + 0.1 * torch.randn(len(logps.chosen)))


@dataclass(frozen=True)
class Anything(PreferenceLoss):
    """An option of any type takes nonsense for a number."""

    beta: Any = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:
        return -logsigmoid((logps.chosen - logps.rejected) * (self.beta if isinstance(self.beta, float) else 1.0))


@dataclass(frozen=True)
class IllegalDefault(PreferenceLoss):
    """The default is a value that no recipe may give."""

    beta: Annotated[float, Field(gt=0)] = 0.0

    def __call__(self, logps: PairLogps) -> Tensor:
        return -logsigmoid((logps.chosen - logps.rejected) * (1 + self.beta))


class _Counting:
    """Counts its calls, and has no state_dict."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, logps: PairLogps) -> Tensor:
        self.calls += 1
        return -logsigmoid(logps.chosen - logps.rejected)


@dataclass(frozen=True)
class Counted(PreferenceLoss):
    """Builds what has a state that no checkpoint holds."""

    def build(self) -> _Counting:
        return _Counting()
