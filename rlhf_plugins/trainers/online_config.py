"""TRL's GRPOConfig for training on a policy's own samples: one response a prompt is allowed. It knows no objective."""

from __future__ import annotations

from dataclasses import dataclass

import trl


@dataclass
class OnlineConfig(trl.GRPOConfig):
    """GRPOConfig without its refusal of `num_generations: 1`, since not every estimator compares siblings.

    TRL refuses near the end of its checks, after everything else is set; what follows is about vLLM's own
    log-probabilities, which we do not read.
    """

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except ValueError as error:
            if self.num_generations != 1 or "at least 2 generations" not in str(error):
                raise
