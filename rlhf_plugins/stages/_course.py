"""The length of stages by their options: steps, episodes and tokens, before anything is loaded."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from rlhf_plugins.contract.workload import Course

if TYPE_CHECKING:
    from rlhf_plugins.contract.workload import Known, Phase
    from rlhf_plugins.stages._training_options import Training
    from rlhf_plugins.stages.evaluate import Evaluate


def of_rows(stage: Training, known: Known, unit: str, responses: int | None) -> Course:
    """A training on rows.

    Args:
        stage: whose options count.
        known: the known of the recipe.
        unit: a word for its rows.
        responses: the responses of each row; None where they differ.
    """
    batch = int(stage.setting("per_device_train_batch_size")) * int(stage.setting("gradient_accumulation_steps"))
    given, epochs = int(stage.setting("max_steps")), float(stage.setting("num_train_epochs"))
    steps = given if given > 0 else None if known.rows is None else ceil(ceil(known.rows / batch) * epochs)
    if steps is None:
        return Course(None, None, f"{_times(epochs, 'epoch')} of the rows, {batch:,} {unit} a step")
    about = "" if given > 0 else "about "
    longest, bound = _longest(stage, known)
    tokens = f", at most {steps * batch * responses * longest:,} tokens ({bound})" if responses and longest else ""
    words = f"{about}{_times(steps, 'step')} of {batch:,} {unit}, {steps * batch:,} in all{tokens}"
    sequences = steps * batch * (responses or 2)
    return Course(steps, sequences, words, {"train": sequences})


def of_rollouts(stage: Training, known: Known, turns: int = 1, refills: int = 0) -> Course:
    """A training on samples of its own: an episode is a response, or a conversation of at most so many turns.

    Args:
        stage: whose options count.
        known: the known of the recipe.
        turns: the turns of a conversation.
        refills: rounds of further prompts for a rollout, each of at most as many responses as it has.
    """
    size, accumulated = (
        int(stage.setting(name)) for name in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    parts = int(stage.setting("steps_per_generation") or accumulated)
    used, new = parts * int(stage.setting("num_iterations")), int(stage.setting("max_completion_length"))
    rollout, steps = size * parts, int(stage.setting("max_steps"))
    unit = "responses" if turns == 1 else f"conversations of up to {turns} turns"
    about = "" if steps > 0 else "about "
    takes = rollout // int(stage.setting("num_generations")) or 1
    if known.prompts is not None and known.prompts < takes:
        why = f"{_times(known.prompts, 'prompt')} to train on, and a rollout takes {takes:,}"
        return Course(None, None, f"no rollout: {why}", refused=why)
    if steps <= 0:
        epochs = float(stage.setting("num_train_epochs"))
        if known.prompts is None:
            return Course(None, None, f"{_times(epochs, 'epoch')} of the prompts, {rollout:,} {unit} a rollout")
        whole = known.prompts // takes  # the rest of an epoch is left
        steps = ceil(ceil(whole * used / accumulated) * epochs)
    rollouts = ceil(steps * accumulated / used)
    episodes = rollouts * rollout
    of = f"{_times(rollouts, 'rollout')} of {rollout:,} {unit}, {episodes:,} episodes"
    sampled = f"at most {episodes * turns * new * (1 + refills):,} sampled tokens"
    if refills:
        sampled += f", of which {episodes * new:,} are of its own prompts"
    once: dict[Phase, int] = {"generation": episodes, "reference": episodes, "scoring": episodes}
    passes = {**once, "train": steps * accumulated * size} if turns == 1 and not refills else {}
    return Course(steps, 2 * episodes * turns, f"{about}{_times(steps, 'step')}, {of}, {sampled}", passes)


def of_evaluation(stage: Evaluate, known: Known, best_of: int) -> Course:
    """Samples of every policy on prompts of two kinds and tasks, and the best-of-n of the first, where n is not 0."""
    kinds = (stage.prompts,) * 2 if known.held_out is None else known.held_out
    asked, tasks = sum(min(stage.prompts, kind) for kind in kinds), [task.sampled() for task in stage.tasks]
    policies, own = known.policies + bool(known.below), asked * stage.responses
    tokens = policies * (own * stage.max_new_tokens + sum(answers * longest for answers, longest in tasks))
    measured = [
        "1 policy" if policies == 1 else f"{policies} policies",
        *([_times(len(tasks), "task")] if tasks else []),
    ]
    each = f", {stage.responses:,} responses to each" if stage.responses > 1 else ""
    words = f"up to {stage.prompts:,} prompts of each kind{each}, {', '.join(measured)}, "
    words += f"at most {tokens:,} sampled tokens"
    sequences = policies * (own + sum(answers for answers, _ in tasks)) + asked * best_of
    beside = [f"best of {best_of}"] if best_of > 0 else []
    if stage.judge is None and stage.reward is None:
        beside.append(f"best of {stage.ceiling} where the true reward is known")
    words += f", beside {' and '.join(beside)}" if beside else ""
    reference = f"base, which is {known.below}" if known.below else stage.reference
    return Course(None, sequences, f"{words}; reference {reference}")


def _longest(stage: Training, known: Known) -> tuple[int | None, str]:
    """The most tokens of a sequence, None where nothing limits them, and what does: longer rows are left out or cut."""
    longest = stage.limit(known.max_length)
    if known.positions is not None and (longest is None or known.positions < longest):
        return known.positions, f"the model takes {known.positions}"
    return longest, f"max_length {longest}"


def _times(count: float, word: str) -> str:
    return f"{count:,.6g} {word}{'' if count == 1 else 's'}"
