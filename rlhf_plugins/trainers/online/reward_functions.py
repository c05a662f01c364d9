"""What reward functions give beside rewards: the parts of dicts, and what they log."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import isnan
from typing import Any

import torch
from accelerate.utils import gather_object  # type: ignore[import-untyped]
from torch import Tensor, nn
from trl.trainer.utils import is_async_callable

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.function_logs import Heard
from rlhf_plugins.contract.reward_rows import Wrong, distinct, refuse_whole, scores_of
from rlhf_plugins.errors import RunError


class Parted:
    """A reward function of a script whose answers may be dicts: TRL gets their scores, and `parts` has the rest.

    Args:
        function: the function of the script.
        name: the name of its metrics.
    """

    def __init__(self, function: Any, name: str) -> None:
        self.function, self.__name__ = function, name
        self.parts: dict[str, list[float]] = {}  # numbers of the last call, NaN where a response has none

    def __call__(self, **given: Any) -> list[Any]:
        """The scores. Raises RunError for a dict without one."""
        return self._scores(self.function(**given), given["completions"])

    def _scores(self, answer: Any, completions: Sequence[Any]) -> list[Any]:
        texts = [each if isinstance(each, str) else str([one.get("content") for one in each]) for each in completions]
        try:
            refuse_whole(answer, len(texts))
            scores, self.parts = scores_of(list(answer), texts, nan_is_none=True)
        except Wrong as wrong:
            raise RunError(f"reward_funcs: {self.__name__} {wrong}") from wrong
        return scores


class PartedLater(Parted):
    """The same of an asynchronous function."""

    async def __call__(self, **given: Any) -> list[Any]:  # type: ignore[override]
        """The scores. Raises RunError for a dict without one."""
        return self._scores(await self.function(**given), given["completions"])


def parted(functions: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """TRL's reward functions, so that their answers may be dicts; models as they are."""
    return [
        each if isinstance(each, nn.Module) else (PartedLater if is_async_callable(each) else Parted)(each, name)
        for each, name in zip(functions, names, strict=True)
    ]


def dimensions_of(functions: Sequence[Any], names: Sequence[str], each: Tensor) -> dict[str, Tensor]:
    """The reward by each function, where there are several, and the parts of each as `function/part`.

    Args:
        functions: the functions as they were just called.
        names: the names of them.
        each: (B, F) their rewards, NaN where there is none.
    """
    found = dict(zip(names, each.unbind(1), strict=True)) if len(names) > 1 else {}
    for function, name in zip(functions, names, strict=True):
        found |= {f"{name}/{part}": torch.tensor(values) for part, values in parts_of(function)}
    return found


def parts_of(function: Any) -> Iterable[tuple[str, list[float]]]:
    """The parts of the dicts that a reward function of a script answered last; none of a model."""
    return function.parts.items() if isinstance(function, Parted) else ()


class HearsFunctions:
    """An OnlineTrainer whose reward functions may log numbers; a class's first base."""

    _of_functions: dict[str, str]  # numbers that reward functions logged so far, and the function of each
    _heard: Heard  # of the rollout that is made

    def _take_dicts(self: Any) -> None:
        """Lets a script's functions give dicts, and names those apart that have one name."""
        self.reward_func_names = distinct(self.reward_func_names)
        self.reward_funcs = parted(self.reward_funcs, self.reward_func_names)

    def _generate_and_score_completions(self: Any, inputs: Any) -> Any:
        """TRL's, with the mean of each part of a function's dicts beside its reward."""
        found = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        mode = "train" if self.model.training else "eval"
        functions = zip(self.reward_funcs, self.reward_func_names, strict=True)
        own = {f"rewards/{name}/{part}/mean": values for one, name in functions for part, values in parts_of(one)}
        for name in sorted(set(gather_object(list(own)))):
            known = [value for value in gather_object(own.get(name, [])) if not isnan(value)]
            if known:
                self._metrics[mode][name].append(sum(known) / len(known))
        return found

    def _note_logged(self: Any) -> None:
        """Notes the means of the numbers that reward functions logged of a rollout.

        Raises:
            RunError: one has the name of a number that the training logs.
        """
        pending = {name: sum(values) / len(values) for name, values in self._pending_metrics.items()}
        self._pending_metrics.clear()
        found = processes.from_main({**self._heard.means(), **pending})
        functions = {name: self._heard.functions.get(name, "") for name in found}
        refuse_taken(found.keys() & (self._metrics["train"].keys() - self._of_functions.keys()), functions)
        self._of_functions = {**functions, **self._of_functions}
        for name, value in found.items():
            self._metrics["train"][name].append(value)

    def _note(self: Any, **numbers: float) -> None:
        refuse_taken(numbers.keys() & self._of_functions.keys(), self._of_functions)
        for name, value in numbers.items():
            self._metrics["train"][name].append(float(value))

    def _own_numbers(self: Any, numbers: Mapping[str, float]) -> Mapping[str, float]:
        """Numbers of a rollout without those of which TRL's say the same."""
        own = self._theirs.without_these(numbers) if self._theirs else numbers
        if self._asked.reward is not None:
            return own
        return {name: value for name, value in own.items() if not name.startswith("reward/")}

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs. Raises RunError where a reward function logged a number of the same name."""
        refuse_taken(logs.keys() & self._of_functions.keys(), self._of_functions)
        super().log(logs, start_time)  # type: ignore[misc]


def refuse_taken(taken: Collection[str], functions: Mapping[str, str]) -> None:
    """Raises RunError for the first of the names that a reward function and the training gave to numbers.

    Args:
        taken: these names.
        functions: the file and name of the function that logged each; empty where nobody knows.
    """
    if taken:
        name = min(taken)
        who = f"{functions[name]}: " if functions.get(name) else ""
        raise RunError(f"{who}log_metric: the training logs a number {name!r} itself: give yours another name")
