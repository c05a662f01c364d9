"""Trains DPO, IPO and PPO where every answer is known, so that how far each policy is from the optimal one is exact.

    python -m rlhf_bench.trained FILE.json RUNS

The model is a decoder of some thousand weights and a vocabulary of four tokens: three words and the end of a response.
Rows are cut to a prompt and one token, and one token is sampled, so that a response is one of three words or the end at
once, and nothing else: the probabilities of the four answers are the softmax of the logits after the prompt. With a
larger vocabulary losses of pairs, which see ratios alone, may move probability to what is no answer.

FILE.json gets a row for each algorithm, beta and seed; one that it has is not trained again. RUNS keeps the trainings.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from rlhf_bench.exact import REFERENCE, REWARDS, bradley_terry, kl, optimal, preference, solved
from rlhf_bench.markup import Table, markdown
from rlhf_plugins import Base, Comparison, Data, Group, Lengths, Policy, session

ANSWERS = ("ant", "bee", "cat", "<eos>")
PROMPT = "bee "  # the space keeps an answer behind it a word of its own
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 8}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 8}
NAMES = {"dpo": "DPO", "ipo": "IPO", "ppo": "PPO"}
NEAR = 1e-4  # nats
WEIGHTS = 2_752
BETAS, SEEDS = (0.25, 0.5, 1.0), (1, 2, 3)
SHARED = {"learning_rate": 1e-2, "lr_scheduler_type": "linear", "warmup_steps": 5, "gradient_checkpointing": False}
OFFLINE = {**SHARED, "per_device_train_batch_size": 6, "max_steps": 150}  # all six pairs in each step
ROLLOUT = {"per_device_train_batch_size": 64, "num_generations": 64, "steps_per_generation": 1, "num_iterations": 1}
ONLINE = {**SHARED, **ROLLOUT, "max_completion_length": 1, "max_steps": 150}


class Place(NamedTuple):
    """One training."""

    algorithm: str
    beta: float
    seed: int


def stage(place: Place) -> dict[str, Any]:
    """The training in a recipe's words."""
    if place.algorithm != "ppo":
        loss = {"use": place.algorithm, "beta": place.beta}
        return {"use": "preference", "loss": loss, "trainer": OFFLINE}
    paid = {"reward": {"use": "python", "path": f"{__file__}:reward"}, "kl": {"use": "in_reward", "coef": place.beta}}
    return {"use": "online", **paid, "shaping": [], "monitors": [], "trainer": ONLINE}


def reward(completions: list[str]) -> list[float]:
    """The reward of each answer; an empty text is the answer of the end token alone."""
    return [REWARDS[ANSWERS.index(answer.strip() or ANSWERS[-1])] for answer in completions]


def base(folder: Path, seed: int) -> Base:
    """Writes the model, random but for its head, which gives the answers the reference's probabilities."""
    end = len(ANSWERS) - 1
    known = Tokenizer(models.WordLevel({word: place for place, word in enumerate(ANSWERS)}, unk_token=ANSWERS[end]))
    known.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    known.add_special_tokens([ANSWERS[end]])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=known, pad_token=ANSWERS[end], eos_token=ANSWERS[end])
    torch.manual_seed(seed)
    ends = {"pad_token_id": end, "eos_token_id": end, "bos_token_id": None}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(ANSWERS), tie_word_embeddings=False, **SIZES, **ends))
    logits = torch.tensor(REFERENCE).log()
    with torch.no_grad():
        hidden = model.model(torch.tensor([tokenizer(PROMPT)["input_ids"]])).last_hidden_state[0, -1]
        model.lm_head.weight.copy_(torch.outer(logits, hidden / hidden.square().sum()))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Base(str(folder), lengths=Lengths(max_length=2, truncation="cut"))


def rows() -> Data:
    """Every pair of answers with its true probability as a soft label, and the prompt to sample from."""
    judged = bradley_terry(torch.tensor(REWARDS, dtype=torch.float64))
    pairs = zip(judged.pairs, judged.probability.tolist(), strict=True)
    groups = [
        Group(PROMPT, (ANSWERS[i], ANSWERS[j]), compared=(Comparison(0, 1, probability=p),)) for (i, j), p in pairs
    ]
    return Data(tuple(groups), prompts={"train": (Group(PROMPT),)})


def answers(policy: Policy) -> Tensor:
    """Log-probabilities of the answers, (answers,): of all tokens after the prompt."""
    ids = torch.tensor([policy.encode([PROMPT], [ANSWERS[0]]).prompt_ids[0]])
    logits, _ = policy.next_logits(ids, None)
    return logits[0].double().log_softmax(0).cpu()


def measured(place: Place, folder: Path) -> dict[str, Any]:
    """The row of a training."""
    run = session(base(folder / "base", place.seed), rows(), folder / "run", seed=place.seed)
    with run.policy() as start:
        reference = answers(start)
    run.train(stage(place), name=place.algorithm)
    with run.policy(place.algorithm) as policy:
        found = answers(policy)
    rewards = torch.tensor(REWARDS, dtype=torch.float64)
    far = kl(found, optimal(reference, rewards, place.beta))
    return {**place._asdict(), "policy": [round(p, 6) for p in found.exp().tolist()], "kl": far}


def section(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """For the page of facts: how far each training is from pi*, and from the least of its own loss."""
    seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    yield from ("", "### What the trainers reach", "")
    yield "By `python -m rlhf_bench.trained runs/trained.json runs/trained`: the stages `preference` and"
    yield f"`online` train all weights of a Qwen3 decoder of {WEIGHTS:,} weights whose vocabulary is the four answers,"
    yield "so that nothing else can be said, and its softmax is the policy. DPO and IPO see all pairs with their true"
    yield f"probabilities as soft labels in each of {OFFLINE['max_steps']} steps, PPO samples"
    yield f"{ONLINE['num_generations']} answers in each of {ONLINE['max_steps']}."
    yield f"Seeds {seeds}: other weights, other samples. KL in nats:"
    header = [
        "beta",
        "trainer",
        "policy, mean",
        "KL to pi*, mean",
        "KL to pi* of the exact least",
        "KL to that, largest",
    ]
    found = [(beta, name, _own(rows, beta, name)) for beta in BETAS for name in NAMES]
    table = [_compared(beta, name, own) for beta, name, own in found if own]
    yield from ("", *markdown(Table("", "", header, table)), "", *_verdict(rows))


def _own(rows: Sequence[Mapping[str, Any]], beta: float, name: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if (row["beta"], row["algorithm"]) == (beta, name)]


@cache
def _least(beta: float, name: str) -> Tensor:
    """Log-probabilities at the exact least of a loss; of PPO's objective, at its most."""
    reference, rewards = torch.tensor(REFERENCE, dtype=torch.float64).log(), torch.tensor(REWARDS, dtype=torch.float64)
    if name == "ppo":
        return optimal(reference, rewards, beta)
    return solved(preference(bradley_terry(rewards), reference, name, beta), reference)


def _beyond(row: Mapping[str, Any]) -> float:
    """KL of a training to the least of its own loss; of probabilities with six digits, so never exactly 0."""
    policy = torch.tensor(row["policy"], dtype=torch.float64)
    return abs(kl((policy / policy.sum()).log(), _least(row["beta"], row["algorithm"])))


def _compared(beta: float, name: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    mean = torch.tensor([row["policy"] for row in rows], dtype=torch.float64).mean(0)
    least = kl(_least(beta, name), _least(beta, "ppo"))
    numbers = [f"{abs(one):.4f}" for one in (fmean(row["kl"] for row in rows), least, max(map(_beyond, rows)))]
    return [f"{beta:g}", NAMES[name], " ".join(f"{p:.4f}" for p in mean.tolist()), *numbers]


def _verdict(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What agrees with theory, as far as the numbers do."""
    far = {name: max(map(_beyond, own)) for name in NAMES if (own := [r for r in rows if r["algorithm"] == name])}
    reached = [NAMES[name] for name, most in far.items() if most < NEAR]
    missed = [f"{NAMES[name]} ({most:.3f})" for name, most in far.items() if most >= NEAR]
    taken = ", ".join(reached) or "none"
    yield f"Within {NEAR:g} nats of the least of their own loss, whatever beta and seed: {taken}."
    if missed:
        yield f"Further from it at least once, with the largest KL: {', '.join(missed)}."
    yield "Where they reach it, DPO and PPO are at pi*, and IPO at a policy of its own, which is not pi*. All of it is"
    yield "where every pair is seen, labels are true probabilities, and nothing but the answers can be said. Sampled"
    yield "judgements, few pairs and large vocabularies, of which losses of pairs see ratios alone, are in the suites,"
    yield "and nothing here speaks of them."


def main() -> None:
    """Goes on with what is missing."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    file, runs = map(Path, sys.argv[1:])
    found = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    done = {Place(row["algorithm"], row["beta"], row["seed"]) for row in found}
    for place in (Place(*each) for each in product(NAMES, BETAS, SEEDS)):
        if place not in done:
            found.append(measured(place, runs / "-".join(map(str, place))))
            file.write_text(json.dumps({"rows": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
