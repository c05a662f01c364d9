"""What transformers' `AutoConfig` reads of an exported reward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import AutoConfig


class RewardModelConfig(PreTrainedConfig):
    """A trunk's configuration, and a pooling and head in a recipe's words.

    Args:
        trunk_config: the trunk's configuration, or the dictionary that it saves.
        pooling: `{"use": name, **options}`.
        head: likewise.
        plugins: where the pooling, the head and their parts come from, each as `module (distribution version)`.
    """

    model_type = "rlhf_reward"
    sub_configs: ClassVar[dict[str, Any]] = {"trunk_config": AutoConfig}

    def __init__(
        self,
        trunk_config: PreTrainedConfig | Mapping[str, Any] | None = None,
        pooling: Mapping[str, Any] | None = None,
        head: Mapping[str, Any] | None = None,
        plugins: Sequence[str] = (),
        **rest: Any,
    ) -> None:
        if isinstance(trunk_config, Mapping):
            trunk_config = AutoConfig.for_model(**trunk_config)
        self.trunk_config = trunk_config
        self.pooling, self.head, self.plugins = dict(pooling or {}), dict(head or {}), list(plugins)
        super().__init__(**{"num_labels": 1, **rest})
