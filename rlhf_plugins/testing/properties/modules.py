"""Properties of what a component builds: its weights are its own, are all of its state, and come back as they were."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from rlhf_plugins.contract.unsaved_state import Looks, unkept
from rlhf_plugins.testing import records, tensor_trials
from rlhf_plugins.testing.conformance import holds_of
from rlhf_plugins.testing.properties.tensors import answered
from rlhf_plugins.testing.subject import Broken, Subject, acting, expect, raised, trained
from rlhf_plugins.testing.tensor_trials import TENSOR_KINDS

BUILDERS = ("pooling", "reward_head", "reward_loss")


@holds_of("pooling", "reward_head")
def state_is_restored(subject: Subject) -> None:
    """A model that is saved without some of its weights scores at random when it is loaded, without a word."""
    made = subject.made()
    one, other = trained(acting(subject.kind, made, 1)), acting(subject.kind, made, 2)
    if not isinstance(one, nn.Module):
        return
    _stir(one)
    words = "training a little, saving as safetensors, and loading into another that was built"
    try:
        saved = load(save({k: v.contiguous() for k, v in one.state_dict().items()}))
        other.load_state_dict(saved)
    except Exception as error:
        raise Broken(words, "weights that fit", raised(error)) from error
    for case in tensor_trials.bench(subject.kind).cases(one):
        before, after = tensor_trials.answer(subject, one, case) or {}, tensor_trials.answer(subject, other, case) or {}
        for name, part in before.items():
            same = name in after and torch.equal(part, after[name])
            came = records.shown(after.get(name, part * torch.nan))
            kept = ", ".join(sorted(saved)) or "nothing"
            expect(same, words, f"the same {name}, {records.shown(part)}", f"{came}; saved were {kept}")


def _stir(module: nn.Module) -> None:
    """Moves also those tensors that are neither weights nor buffers, as training would where they ask for gradients."""
    with torch.no_grad():
        for part in module.modules():
            for value in _hidden(part):
                value.add_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))


def _hidden(part: nn.Module) -> list[Tensor]:
    """Tensors with a gradient that a module holds outside its weights."""
    registered = {id(weights) for weights in part.parameters()}
    held = [inner for value in vars(part).values() for inner in _tensors(value)]
    return [tensor for tensor in held if tensor.requires_grad and id(tensor) not in registered]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, nn.Module):
        return list(value.parameters())
    if isinstance(value, list | tuple):
        return [inner for item in value for inner in _tensors(item)]
    if isinstance(value, dict) and not any(isinstance(key, str) and key.startswith("_") for key in value):
        return [inner for item in value.values() for inner in _tensors(item)]
    return []


@holds_of(*BUILDERS)
def weights_are_registered(subject: Subject) -> None:
    """A weight that `parameters()` does not list is neither trained, moved to the device nor saved."""
    acts = subject.acting()
    if isinstance(acts, nn.Module):
        outside = [f"{name or 'the module'}.{key}" for name, part in acts.named_modules() for key in _outside(part)]
        came = f"{', '.join(outside)} outside of them"
        expect(not outside, "the module that it builds", "every weight among its parameters", came)


def _outside(part: nn.Module) -> list[str]:
    registered = {id(weights) for weights in part.parameters()}
    own = {key: value for key, value in vars(part).items() if not key.startswith("_")}
    hidden = {key: [t for t in _tensors(value) if t.requires_grad] for key, value in own.items()}
    return [key for key, found in hidden.items() if any(id(tensor) not in registered for tensor in found)]


@holds_of(*BUILDERS)
def builds_anew(subject: Subject) -> None:
    """Members of an ensemble and runs of a process must not share weights: each `build` gives its own."""
    made = subject.made()
    one, other = acting(subject.kind, made), acting(subject.kind, made)
    if not isinstance(one, nn.Module):
        return
    expect(one is not other, "build, twice", "two modules", "one module, twice")
    shared = {w.data_ptr() for w in one.parameters()} & {w.data_ptr() for w in other.parameters()}
    expect(not shared, "build, twice", "weights of their own", f"{len(shared)} weights in common")


@holds_of("pooling", "reward_head")
def seed_decides_weights(subject: Subject) -> None:
    """A run is repeated from its seed, so that weights must follow torch's generator and nothing else."""
    made = subject.made()
    one, other = acting(subject.kind, made, 5), acting(subject.kind, made, 5)
    if isinstance(one, nn.Module):
        pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
        apart = [name for (name, weights), again in pairs if not torch.equal(weights, again)]
        expect(not apart, "build, twice from one seed", "equal weights", f"other numbers in {', '.join(apart)}")


@holds_of(*TENSOR_KINDS)
def state_is_kept(subject: Subject) -> None:
    """What changes as it is called and has no `state_dict` is in no checkpoint: a killed run goes on as another one."""
    acts, looks = subject.acting(), Looks()
    for case, _ in (one for _ in range(2) for one in answered(subject, acts)):
        for built in looks.changed(acts):
            raise Broken(f"{case[0]}, again", "what it holds as it was, or a state_dict", unkept(built))
