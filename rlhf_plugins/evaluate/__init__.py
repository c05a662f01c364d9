"""Measures policies and reward models on held-out prompts and pairs. It trains nothing."""
