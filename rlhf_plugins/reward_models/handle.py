"""A reward as a handle: what scores responses, whatever it is made of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from rlhf_plugins.arithmetic.ranking import concatenated, map_tensors
from rlhf_plugins.contract import processes
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.data.batches.tokens import alike, cut_responses, encoded, unended, without_end
from rlhf_plugins.engine.cost import scoring
from rlhf_plugins.engine.prompt_form import form_of
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.retries import Retries

if TYPE_CHECKING:
    from torch import nn

    from rlhf_plugins.contract.component import Component
    from rlhf_plugins.contract.rows import Group, Samples, Text
    from rlhf_plugins.data.batches.tokens import RowEncoder
    from rlhf_plugins.engine.prompt_form import Form

logger = logging.getLogger(__name__)
Predict = Callable[["Samples"], Prediction]


@dataclass(frozen=True)
class RewardHandle:
    """A `contract.handles.RewardModel`: a saved reward model, an ensemble, or anything that a reward component builds.

    It may be called too, as what a component builds. In several processes all of them ask it: a model scores in each
    its share of the prompts, anything else is asked by the main one.

    Args:
        function: scores responses.
        module: the model, where there is one.
        encoder: the encoder of the model's base, where there is one.
        retries: when and how often it is asked again while it is unavailable.
        with_grad: scores responses with a gradient, where that can be.
        with_tokens: scores responses token by token, where that can be.
        label: the label as messages call it, the folder of a saved one.
        forms: the forms of the prompts that it was trained on; empty where they are not known.
        compares: the aggregation by which it compares the responses to a prompt; empty where it scores each alone.
    """

    function: Predict
    module: nn.Module | None = None
    encoder: RowEncoder | None = field(default=None, repr=False)
    retries: Retries = field(default=Retries(), repr=False)  # noqa: RUF009 (frozen)
    with_grad: Predict | None = field(default=None, repr=False)
    with_tokens: Predict | None = field(default=None, repr=False)
    label: str = "this reward"
    forms: tuple[Form, ...] = ()
    compares: str = ""

    def given(self, encoder: RowEncoder) -> RewardHandle:
        """The same for samples with the tokens of `encoder`: a model that has others reads their texts.

        Of a response that is too long for it, it then reads the beginning and the end token; one that was cut where it
        was sampled has no end token. It gives no numbers to tokens, since they are not the samples'.
        """
        read = reader(self.encoder, encoder)
        if read is None:
            return self
        function, with_grad = self.function, self.with_grad
        return replace(
            self,
            function=lambda samples: function(read(samples)),
            with_grad=None if with_grad is None else lambda samples: with_grad(read(samples)),
            with_tokens=None,
        )

    def predict(self, samples: Samples, *, grad: bool = False) -> Prediction:
        """(B,) rewards, with what else is predicted, on the CPU.

        Args:
            samples: the responses.
            grad: with a gradient, of the weights or of what a hook puts into the model, in evaluation mode.

        Raises:
            ComponentError: the reward fails, or gives anything but finite numbers.
            RunError: it stays unavailable, or a gradient is wanted of what is no single reward model.
        """
        if grad and self.with_grad is None:
            raise RunError("this reward has no gradient: it is no single reward model")
        if not samples.responses:
            return Prediction(torch.zeros(0))
        function = self.with_grad if grad and self.with_grad is not None else self.function
        if grad or processes.count() == 1:
            return self._asked(function, samples)
        if self.module is None:
            return processes.on_main(lambda: self._asked(function, samples))
        return self._in_shares(function, samples)

    def by_token(self, samples: Samples) -> Prediction:
        """`predict`, with `tokens` filled in: what each token adds to the reward of the response so far.

        In several processes the main one predicts for all.

        Raises:
            RunError: it is no single reward model, or that of an encoder, or has other tokens than the samples.
        """
        function = self.with_tokens
        if function is None:
            raise RunError("this reward gives no numbers to tokens: it is no single reward model with the same tokens")
        if not samples.responses:
            return Prediction(torch.zeros(0))
        return processes.on_main(lambda: self._asked(function, samples))

    def _in_shares(self, function: Predict, samples: Samples) -> Prediction:
        """Each process predicts for its share of the prompts, all responses that are compared together."""
        rows: dict[int, list[int]] = {}
        for row, group in enumerate(samples.groups()):
            rows.setdefault(group, []).append(row)
        prompts = list(rows.values())
        own = samples.take(processes.joined(prompts[processes.share(len(prompts))]))
        with processes.alone():
            found = self._asked(function, own) if own.responses else None
        each = concatenated([one for one in processes.gathered(found) if one is not None])
        places = torch.tensor(processes.joined(prompts)).argsort()
        return map_tensors(each, lambda values: values[places])

    def _asked(self, function: Predict, samples: Samples) -> Prediction:
        if self.forms:
            for form in {form_of(prompt) for prompt in samples.prompts}.difference(self.forms):
                _say_form(self.label, form, self.forms[0])
        with scoring(len(samples.responses)):
            return self.retries(lambda: function(samples))

    __call__ = predict

    def __getattr__(self, name: str) -> Any:
        """What else the function has, such as the state of one that holds some."""
        if name.startswith("__") or "function" not in vars(self):
            raise AttributeError(name)
        return getattr(self.function, name)

    def encode(self, prompts: Sequence[Text | Group], responses: Sequence[Text], cut: Sequence[bool] = ()) -> Samples:
        """Responses as the model reads them, one to each prompt.

        Args:
            prompts: text, messages, or groups, whose prompt is taken with its columns.
            responses: to them; to messages a text too, which is the assistant's.
            cut: of each, whether it was cut where it was sampled and does not end here either; none if left out.

        Raises:
            DataError: there are not as many responses as prompts, or the model cannot take one.
            RunError: there is no model whose tokens they could be.
        """
        if self.encoder is None:
            raise RunError("this reward has no tokenizer: take samples from a policy")
        found = encoded(prompts, responses, self.encoder)
        return unended(found, cut, self.encoder.tokenizer) if cut else found


def reader(own: RowEncoder | None, encoder: RowEncoder) -> Callable[[Samples], Samples] | None:
    """What turns samples with the tokens of `encoder` into ones with those of `own`; None where they have them."""
    if own is None or alike(own.tokenizer, encoder.tokenizer):
        return None
    return lambda samples: _read(samples, own, encoder)


def _read(samples: Samples, own: RowEncoder, encoder: RowEncoder) -> Samples:
    """The same texts in other tokens; a response that was cut in those of `encoder` does not end here either.

    Samples that `encode` made have the model's own tokens already, and are left as they are.

    Raises:
        DataError: a prompt leaves no room for a response.
    """
    given = encoded(samples.prompts, samples.responses, replace(own, max_tokens=None))
    whole = replace(given, columns=samples.columns, siblings=samples.siblings)
    bare = unended(whole, [True] * len(whole.responses), own.tokenizer)
    was_cut = zip(without_end(samples, encoder.tokenizer), samples.response_ids, strict=True)
    pairs = zip(was_cut, whole.response_ids, bare.response_ids, strict=True)
    cut = [[*ids] == [*short] or (lacks and [*ids] != [*here]) for (lacks, ids), here, short in pairs]
    whole = unended(whole, cut, own.tokenizer)
    found = whole if own.max_tokens is None else cut_responses(whole, own.max_tokens)
    if found.response_ids != whole.response_ids:
        _say_cut(own.max_tokens)
    return found


@cache
def _say_cut(most: int | None) -> None:
    """One line of the log, however many responses are cut."""
    logger.warning("the reward model takes %s tokens: it reads the beginning of longer responses", most)


@cache
def _say_form(label: str, given: Form, trained: Form) -> None:
    """One line of the log for each model, however often it is asked."""
    logger.warning("%s: the prompts to score are %s, and the reward model was trained on %s", label, given, trained)


def reward_handle(built: Any, retries: Retries = Retries()) -> RewardHandle:  # noqa: B008 (frozen)
    """What a reward component built, as a handle."""
    if isinstance(built, RewardHandle):
        return built
    names = ("module", "encoder", "with_grad", "with_tokens")
    module, encoder, with_grad, with_tokens = (getattr(built, name, None) for name in names)
    label, compares = getattr(built, "label", RewardHandle.label), getattr(built, "compares", "")
    return RewardHandle(built, module, encoder, retries, with_grad, with_tokens, label, compares=compares)


def fitting(component: Component, option: str, built: Any) -> RewardHandle:
    """What a reward component built, as the handle of another component, which has it as this option.

    Raises:
        RunError: it compares the responses to a prompt, and the component scores one alone.
    """
    handle = reward_handle(built)
    try:
        if handle.compares:
            component.fits_compared(option, handle.compares)
    except ValueError as error:
        raise RunError(f"{component.kind} {getattr(component, 'name', '')}".rstrip() + f": {error}") from error
    return handle


def rewards(prediction: Prediction) -> list[float | None]:
    """One number per response, None where the reward abstained."""
    numbers: list[float | None] = prediction.reward.tolist()
    if prediction.abstained is None:
        return numbers
    return [None if out else number for number, out in zip(numbers, prediction.abstained.tolist(), strict=True)]
