"""What a picture adds to text: three fusions beside text alone, in the world of shapes.

    python plugins/rlhf-multimodal/bench/fusion.py [SEEDS]

Heads are trained on 3,000 pairs about pictures, on features of the sandbox's policy as it is (the mean hidden state of
a response), and measured on 400 pairs about scenes that are in no training picture, by the true worth of the responses.
Then the held-out pictures are shuffled, which should cost what they gave, and the parts of each reward are compared.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_plugins import Base, Data, Group, Prediction, component, session

STEPS, BATCH, RATE = 800, 256, 3e-3
STAGE: Mapping[str, Any] = {  # gives the features; its head is not read
    "use": "reward_model",
    "train_layers": 0,
    "pooling": {"use": "mean", "over": "response"},
    "trainer": {"max_steps": 1},
}
HEADS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "text alone": ("scalar", {}),
    "late fusion": ("late_fusion", {"width": 5}),
    "gated fusion": ("gated_fusion", {"width": 5}),
    "cross-attention": ("cross_attention", {"width": 5}),
}
COLUMNS = ("accuracy", "pictures shuffled", "parts agree", "right where they agree", "right where not")


def strict(groups: Sequence[Group]) -> list[Group]:
    """The pairs whose responses differ in worth."""
    return [group for group in groups if group.gold is not None and group.gold[0] != group.gold[1]]


def polite(response: str) -> float:
    """What the text alone tells of a response's worth: its truth is as likely as not, whatever it claims."""
    return -0.5 * ("fool" in response) - 0.2 * ("let me" in response)


def ceiling(groups: Sequence[Group]) -> float:
    """The accuracy of the best order that the text alone allows, ties one half."""
    found = []
    for group in strict(groups):
        a, b = (polite(str(response)) for response in group.responses)
        first = (group.gold or (0.0, 0.0))[0] > (group.gold or (0.0, 0.0))[1]
        found.append(0.5 if a == b else float((a > b) == first))
    return fmean(found)


@dataclass(frozen=True)
class Pairs:
    """What a head is given of pairs, and which response is the better one."""

    features: Tensor  # (2, pairs, width)
    images: Tensor  # (pairs, vectors, width of an image)
    first: Tensor  # (pairs,) bool: the first response, as judged or by true worth

    @classmethod
    def of(cls, model: Any, groups: Sequence[Group], by_worth: bool) -> Pairs:
        """Of groups, from the base's features."""
        prompts = [group.prompt for group in groups]
        sides = [model.encode(prompts, [group.responses[side] for group in groups]) for side in (0, 1)]
        first = [_first(group, by_worth) for group in groups]
        images = torch.tensor([group.columns["media_features"] for group in groups])
        return cls(torch.stack([model.predict(side).features.float() for side in sides]), images, torch.tensor(first))

    def gaps(self, head: Any, rows: Tensor, images: Tensor) -> dict[str, Tensor]:
        """The reward of the first response less that of the second, and the same of each part, (rows,)."""
        given = () if isinstance(head, nn.Linear) else ({"media_features": images[rows]},)
        one, other = (
            Prediction(x) if isinstance(x, Tensor) else x for x in (head(f[rows], *given) for f in self.features)
        )
        parts = {name: one.dimensions[name] - other.dimensions[name] for name in one.dimensions}
        return {"reward": one.reward - other.reward, **parts}


def _first(group: Group, by_worth: bool) -> bool:
    assert group.gold is not None
    assert group.ranks is not None
    return group.gold[0] > group.gold[1] if by_worth else group.ranks[0] == 0


def trained(name: str, options: Mapping[str, Any], pairs: Pairs, seed: int) -> Any:
    """A head that minimises the loss of Bradley and Terry."""
    torch.manual_seed(seed)
    head = component("reward_head", name, **options).build(pairs.features.shape[2])
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.01)
    for _ in range(STEPS):
        rows = torch.randint(len(pairs.first), (BATCH,))
        sign = 2.0 * pairs.first[rows] - 1
        loss = -nn.functional.logsigmoid(sign * pairs.gaps(head, rows, pairs.images)["reward"]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


@torch.no_grad()
def measured(head: Any, pairs: Pairs, seed: int) -> dict[str, float]:
    """The columns of the table for one head."""
    every = torch.arange(len(pairs.first))
    found = pairs.gaps(head, every, pairs.images)
    right = (found["reward"] > 0) == pairs.first
    others = pairs.images[torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))]
    shuffled = (pairs.gaps(head, every, others)["reward"] > 0) == pairs.first
    row = dict(zip(COLUMNS, (_share(right), _share(shuffled)), strict=False))
    if "visual" not in found:
        return row
    agree = (found["text"] > 0) == (found["visual"] > 0)
    return row | dict(zip(COLUMNS[2:], (_share(agree), _share(right[agree]), _share(right[~agree])), strict=True))


def _share(values: Tensor) -> float:
    return float(values.float().mean())


def of_seed(seed: int) -> dict[str, dict[str, float]]:
    """Every head's row, and the ceiling of text."""
    with TemporaryDirectory() as folder:
        rows = {"format": "shapes", "folder": f"{folder}/pictures", "prompts": 3000}
        data: Data = component("data_format", "with_images", rows=rows).load(Base("sandbox"), seed)
        run = session("sandbox", data, Path(folder) / "run", seed=seed, checkpoint=None)
        run.train(STAGE, name="features")
        model = run.reward("features")
        train, test = Pairs.of(model, data.train, False), Pairs.of(model, strict(data.test), True)
    found = {"best that text allows": {"accuracy": ceiling(data.test)}}
    for shown_as, (name, options) in HEADS.items():
        found[shown_as] = measured(trained(name, options, train, seed), test, seed)
    print(f"seed {seed}: {found}", file=sys.stderr)
    return found


def main(seeds: int = 5) -> None:
    """Prints means over seeds with standard errors."""
    began = time.perf_counter()
    found = [of_seed(seed) for seed in range(seeds)]
    print(f"| reward | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for name in found[0]:
        cells = [shown([each[name][column] for each in found if column in each[name]]) for column in COLUMNS]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"{seeds} seeds, {time.perf_counter() - began:.0f} s")


def shown(values: Sequence[float]) -> str:
    """The mean and its standard error."""
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else ""
    return f"{fmean(values):.3f} +- {stdev(values) / len(values) ** 0.5:.3f}"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
