"""What a trial's failure says, and what says nothing of what it tried."""

from __future__ import annotations

import pytest
import torch

from rlhf_plugins.engine import HALF_LORA, HALF_NORMS, pretending
from rlhf_plugins.engine.half import trials

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_PASSED", {})


def raising(error: Exception) -> trials.Trial:
    def trial() -> bool:
        raise error

    return trial


def test_a_device_without_an_operation_fails_a_trial_once() -> None:
    assert not trials.passes(HALF_LORA, CPU, "key", raising(NotImplementedError("no kernel")))
    assert not trials.passes(HALF_LORA, CPU, "key", lambda: True)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), torch.AcceleratorError("an illegal access")])
def test_a_lack_of_memory_or_a_broken_device_is_no_result(error: Exception) -> None:
    with pytest.raises(type(error)):
        trials.passes(HALF_LORA, CPU, "key", raising(error))
    assert trials.passes(HALF_LORA, CPU, "key", lambda: True)


def test_a_path_that_failed_on_such_a_device_is_not_assumed_to_pass() -> None:
    trials.passes(HALF_LORA, CPU, "key", lambda: False)
    trials.passes(HALF_NORMS, CARD, "key", lambda: False)
    assert trials.failed("cuda") == {"RMS norms in half precision"}
    with pretending("cuda"), trials.assumed() as names:
        assert trials.passes(HALF_LORA, CPU, "key", lambda: False)
        assert not trials.passes(HALF_NORMS, CPU, "another key", lambda: True)
    assert names == {"LoRA layers in half precision"}
