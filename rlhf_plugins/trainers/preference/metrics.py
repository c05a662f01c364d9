"""What a training on preferences logs, under TRL's names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.interfaces import PreferenceLoss
from rlhf_plugins.contract.records import PairLogps
from rlhf_plugins.engine.log_probs import ResponseLogps

Sums = Mapping[str, tuple[Tensor, Tensor]]  # name -> a sum and the count that it is divided by


class Means:
    """Means over a batch whose micro-batches come one after the other; they reach the host once per batch.

    In several processes all of them take the means, each of which is over all of theirs.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._rows: dict[str, int] = {}  # where they are not what a sum counts

    def add(self, sums: Sums, rows: int | None = None) -> None:
        """Adds the sums of a micro-batch, and of how many rows they are; None: of as many as they count."""
        for name, (total, count) in sums.items():
            both = torch.stack([total.detach().double(), count.double()])
            self._sums[name] = self._sums[name] + both if name in self._sums else both
            if rows is not None:
                self._rows[name] = self._rows.get(name, 0) + rows

    def take(self) -> dict[str, tuple[float, int]]:
        """The means so far, each with how many rows it is of, to a whole one; no mean of nothing.

        The next batch starts from nothing.
        """
        sums = dict(zip(self._sums, torch.stack(list(self._sums.values())).tolist(), strict=True)) if self._sums else {}
        own = {name: [total, count, self._rows.get(name, count)] for name, (total, count) in sums.items()}
        self._sums, self._rows = {}, {}
        found = processes.gathered(own)
        whole = {
            name: [sum(values) for values in zip(*(one[name] for one in found if name in one), strict=True)]
            for name in dict.fromkeys(processes.joined([list(one) for one in found]))
        }
        return {name: (total / count, max(1, round(rows))) for name, (total, count, rows) in whole.items() if count > 0}


Unit = tuple[str, float]  # how numbers of log-ratios to the reference begin, and what they are times


def unit(loss: PreferenceLoss) -> Unit | None:
    """`rewards` and the loss's beta; where it has none, or its parts have several, log-ratios. None without any."""
    if not loss.reads_reference:
        return None
    betas = loss.betas()
    return ("rewards", next(iter(betas))) if len(betas) == 1 else ("log_ratios", 1.0)


@torch.no_grad()
def pair_sums(logps: PairLogps, unit: Unit | None) -> Sums:
    """What the pairs of a batch say: rewards are beta (log pi - log pi_ref) of a whole response.

    The order of a pair is that of its log-ratios, whatever beta is.
    """
    numbers = {"logps/chosen": logps.chosen, "logps/rejected": logps.rejected}
    if unit is not None:
        name, beta = unit
        chosen = beta * (logps.chosen - logps.ref_chosen)
        rejected = beta * (logps.rejected - logps.ref_rejected)
        numbers |= {f"{name}/chosen": chosen, f"{name}/rejected": rejected, f"{name}/margins": chosen - rejected}
        numbers |= {"rewards/accuracies": chosen > rejected}
    return {name: (values.sum(), torch.ones_like(values).sum()) for name, values in numbers.items()}


@torch.no_grad()
def label_sums(logps: PairLogps, unit: Unit | None) -> Sums:
    """What labelled responses say, under the names of pairs; `kl` is the mean log-ratio of other prompts' responses."""
    good, bad = logps.probability, 1 - logps.probability
    numbers = {"logps": logps.chosen}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    if unit is not None:
        name, beta = unit
        numbers[name] = beta * (logps.chosen - logps.ref_chosen)
        other = logps.rejected - logps.ref_rejected
        found["kl"] = other.sum(), torch.ones_like(other).sum()
    for name, values in numbers.items():
        found[f"{name}/chosen"] = (values * good).sum(), good.sum()
        found[f"{name}/rejected"] = (values * bad).sum(), bad.sum()
    return found


@torch.no_grad()
def token_sums(found: ResponseLogps, scored: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What the tokens of a batch say: `scored` (2 pairs, T) are those that count, chosen and rejected in turn."""
    assert found.entropies is not None
    assert found.means is not None
    assert found.likeliest is not None
    chosen, rejected = scored[::2], scored[1::2]
    return {
        "entropy": (_sum(found.entropies, scored), scored.sum()),
        "logits/chosen": (_sum(found.means[::2], chosen), chosen.sum()),
        "logits/rejected": (_sum(found.means[1::2], rejected), rejected.sum()),
        "mean_token_accuracy": (_sum(found.likeliest[::2], chosen), chosen.sum()),
    }


def _sum(values: Tensor, where: Tensor) -> Tensor:
    """Without a selection, for whose size a GPU would have to wait."""
    return values.masked_fill(~where, 0).sum()
