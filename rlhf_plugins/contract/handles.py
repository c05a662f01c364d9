"""The interfaces of opened models: a policy answers prompts, a reward model scores responses.

torch is not imported here: it appears in annotations alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rlhf_plugins.contract.records import Prediction
    from rlhf_plugins.contract.rows import Group, Samples, Text
    from rlhf_plugins.contract.sampling import SamplingOptions


@runtime_checkable
class Policy(Protocol):
    """A causal language model that answers prompts. What it returns has no gradient unless it is asked for."""

    @property
    def module(self) -> nn.Module:
        """The model, with this policy's adapter active inside `with policy:` only."""
        ...

    def __enter__(self) -> Policy: ...

    def __exit__(self, *error: object) -> None: ...

    def sample(
        self,
        prompts: Sequence[Text | Group],
        n: int = 1,
        *,
        temperature: float = 1.0,
        max_new_tokens: int = 64,
        seed: int = 0,
        columns: Mapping[str, Sequence[Any]] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Samples:
        """`n` responses to each prompt, those of one prompt side by side; temperature 0 decodes greedily.

        The same arguments on the same machine give the same samples; torch's own random state does not change.

        Args:
            prompts: text, messages, or groups: of these the prompt and the columns, None for a missing one.
            n: responses to each prompt.
            temperature: divides the logits.
            max_new_tokens: where a response is cut.
            seed: the seed of the sampling.
            columns: further columns, one value per prompt; each response gets the values of its prompt.
            options: `top_p`, the probability that the fewest most likely tokens have together, of which one is drawn;
                `top_k`, the number of the most likely tokens, of which one is drawn; `min_p`, how likely a token is at
                least, as a share of the likeliest; and `repetition_penalty`, above 1 against tokens of the text so far.

        Raises:
            RunError: an option is out of its range, or changes nothing at temperature 0.
        """
        ...

    def encode(self, prompts: Sequence[Text | Group], responses: Sequence[Text]) -> Samples:
        """Tokenizes given responses, one to each prompt, EOS included; text may answer messages.

        Raises DataError where one cannot be read.
        """
        ...

    def log_probs(self, samples: Samples, *, temperature: float = 1.0, grad: bool = False) -> Tensor:
        """Log-probabilities of the response tokens given what precedes them, in nats, (B, T), 0 outside the response.

        Args:
            samples: B responses of at most T tokens.
            temperature: divides the logits, as in sampling.
            grad: keep the graph for gradients of the policy's weights; the model stays in its mode (training or not).

        Raises:
            RunError: a gradient is wanted and no weight of the policy is trainable.
        """
        ...

    def choose(self, prompts: Sequence[Text | Group], choices: Sequence[str]) -> Tensor:
        """Log-probabilities of C short answers, normalised over them, (B, C), in one forward pass: for a judge.

        EOS after an answer counts only where one choice begins another, such as `1` and `10`.

        Raises:
            DataError: there are fewer than two choices, two are equal, one has no token, or the model cannot take a
                prompt with a choice.
        """
        ...

    def next_logits(self, ids: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """Logits (B, vocabulary) after the tokens (B, N), and a cache to go on from with the next ones.

        Without a cache the tokens are the whole sequence; with it, those that follow. No token is padding.
        """
        ...


@runtime_checkable
class RewardModel(Protocol):
    """What scores responses."""

    @property
    def module(self) -> nn.Module | None:
        """The model; None where there is none, as for a function."""
        ...

    def predict(self, samples: Samples, *, grad: bool = False) -> Prediction:
        """(B,) rewards, with what else the model predicts.

        Args:
            samples: the responses.
            grad: keep the graph for gradients. Raises RunError where it is anything but a single saved reward model.
        """
        ...
