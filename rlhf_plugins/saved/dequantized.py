"""How far rewards move where a model leaves the quantized base that it was trained on. It writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Samples
    from rlhf_plugins.reward_models.reward_model import Parts, RewardModel

TOLERANCE = 0.25  # of the largest reward, or of 1 where that is less


@dataclass(frozen=True)
class Moved:
    """Rewards of a few responses on the quantized base and on the plain one."""

    quantization: str
    furthest: float
    largest: float  # absolute reward on the quantized base

    def __str__(self) -> str:
        return (
            f"Trained on the base in {self.quantization}, it is merged into the unquantized one: on a few responses "
            f"its rewards move by up to {self.furthest:.3g}, and are up to {self.largest:.3g}."
        )


def check_moved(
    folder: Path, parts: Parts, plain: RewardModel, samples: Samples, pad: int, tolerance: float
) -> Moved | None:
    """None for a model of a base that is not quantized.

    Args:
        folder: the folder of the saved model.
        parts: its own.
        plain: the same on the unquantized base.
        samples: the samples that both score.
        pad: the padding token.
        tolerance: the most that a reward may move, as a share of the largest one, or of 1 where that is less.

    Raises:
        RunError: a reward moves further.
    """
    from rlhf_plugins.recipe.provenance import opener
    from rlhf_plugins.reward_models.reward_model import open_reward_model

    if parts.base.quantization is None:
        return None
    trained = open_reward_model(folder, opener(folder)).score(samples, pad)
    apart = max(abs(a - b) for a, b in zip(trained, plain.score(samples, pad), strict=True))
    found = Moved(parts.base.quantization, apart, max(map(abs, trained)))
    if not apart <= tolerance * max(1.0, found.largest):
        raise RunError(f"{found} That is more than a share of {tolerance:g} (`tolerance`), so it is not exported")
    return found
