"""What a trial's failure says, and what says nothing of what it tried."""

from __future__ import annotations

import pytest
import torch

from rlhf_plugins.engine import HALF_LORA
from rlhf_plugins.engine.half import trials


def raising(error: Exception) -> trials.Trial:
    def trial() -> bool:
        raise error

    return trial


def test_a_device_without_an_operation_fails_a_trial_once() -> None:
    assert not trials.passes(HALF_LORA, "key", raising(NotImplementedError("no kernel")))
    assert not trials.passes(HALF_LORA, "key", lambda: True)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), torch.AcceleratorError("an illegal access")])
def test_a_lack_of_memory_or_a_broken_device_is_no_result(error: Exception) -> None:
    with pytest.raises(type(error)):
        trials.passes(HALF_LORA, "key", raising(error))
    assert trials.passes(HALF_LORA, "key", lambda: True)
