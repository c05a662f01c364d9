"""A tiny base, tiny preferences and a run to give to a stage, for tests of plugins and of ours. No download."""

from __future__ import annotations

from rlhf_plugins.testing.tiny import tiny_base, tiny_encoder, tiny_pairs, tiny_run

__all__ = ["tiny_base", "tiny_encoder", "tiny_pairs", "tiny_run"]
