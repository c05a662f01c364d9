"""Opens saved policies, reward models and reward functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.provenance import opener

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Text
    from rlhf_plugins.data.stage_outputs import Part
    from rlhf_plugins.engine.policy import ModelPolicy
    from rlhf_plugins.reward_models.handle import RewardHandle


def load_reward_model(
    folder: str | Path, trust_remote_code: bool = False, quantization: str | None = None
) -> RewardHandle:
    """A reward model or an ensemble as a stage saved it, such as `runs/quickstart#reward_model` or its folder.

    `predict` scores the samples that `encode` makes, or that a policy of the same base sampled; `module` is the model.

    Args:
        folder: the folder of the model, or `RUN#STAGE`.
        trust_remote_code: whether the base may run code of its own.
        quantization: `int8` or `nf4` holds the linear layers below pooling and head, which were trained in full
            precision, in 8 or 4 bits: rewards differ by rounding, in int8 also by what else is scored at once. None is
            as it was trained.

    Raises:
        RunError: the folder holds neither, a part of it is missing, or it cannot be quantized.
        PluginError: a plugin that it was made with is missing; for one of another version there is a warning.
    """
    place = _place(folder, "rewards")  # before the imports below, which take many seconds

    from rlhf_plugins.engine.precision import known_quantization
    from rlhf_plugins.reward_models.opening import open_reward

    if quantization is not None:
        known_quantization(quantization)
    return open_reward(place, opener(place), trust_remote_code, quantization=quantization)


def load_policy(folder: str | Path, trainable: bool = False, trust_remote_code: bool = False) -> ModelPolicy:
    """A policy as a stage saved it, such as `runs/quickstart#dpo`. Policies of one base share its weights.

    Args:
        folder: the folder of an adapter or a whole model, or `RUN#STAGE`.
        trainable: let its weights have gradients, for `log_probs(samples, grad=True)`.
        trust_remote_code: whether the base may run code of its own.

    Raises:
        RunError: the folder holds no policy, or it does not load.
    """
    place = _place(folder, "policies")  # before the import below, which takes many seconds

    from rlhf_plugins.engine.policy import open_policy, saved_base

    return open_policy(place, saved_base(place, trust_remote_code), trainable)


def load_reward_function(folder: str | Path, trust_remote_code: bool = False) -> Callable[..., list[float]]:
    """A saved reward model or ensemble, or `RUN#STAGE`, as one of the `reward_funcs` of TRL's trainers.

    The function takes `prompts` and `completions`, both text or both messages, and gives a reward each. It reads them
    as the model was trained to: with the chat template of its base, or with EOS after a text. A model that
    reads columns is given those of the rows. Its name, which TRL logs it under, is that of the folder; of the folder
    above `model`.

    Raises:
        RunError: the folder holds neither, or a part of it is missing.
        PluginError: a plugin that it was made with is missing; for one of another version there is a warning.
    """
    path = _place(folder, "rewards")

    from rlhf_plugins.reward_models.opening import columns_read

    model = load_reward_model(path, trust_remote_code)
    reads = columns_read(model)

    def reward(prompts: Sequence[Text], completions: Sequence[Text], **named: Any) -> list[float]:
        columns = {name: values for name, values in named.items() if name in reads}
        return model.predict(replace(model.encode(prompts, completions), columns=columns)).reward.tolist()

    whole = path.resolve()
    reward.__name__ = whole.parent.name if whole.name == "model" else whole.name
    return reward


def _place(folder: str | Path, part: Part) -> Path:
    """The folder of a saved model that may be referred to as `RUN#STAGE`. Raises RunError where it is none."""
    from rlhf_plugins.data.saved_steps import not_whole
    from rlhf_plugins.run.files.folder import RunFolder
    from rlhf_plugins.saved.run_reference import made

    if Path(folder).is_dir() and not RunFolder(Path(folder)).is_run:
        if reason := not_whole(Path(folder)):
            raise RunError(f"{folder}: {reason}")
        return Path(folder)
    found = made(str(folder), part)
    if found.folder is None:
        raise RunError(f"{found.label}: is not saved as a model in a folder: {dict(found.spec)}")
    return found.folder
