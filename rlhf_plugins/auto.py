"""`import rlhf_plugins.auto` lets transformers' Auto classes open exported reward models of any pooling and head."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForSequenceClassification

from rlhf_plugins.saved.auto_config import RewardModelConfig
from rlhf_plugins.saved.auto_model import RewardModelForSequenceClassification

AutoConfig.register(RewardModelConfig.model_type, RewardModelConfig, exist_ok=True)
AutoModelForSequenceClassification.register(RewardModelConfig, RewardModelForSequenceClassification, exist_ok=True)
