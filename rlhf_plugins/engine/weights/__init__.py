"""Weights on their way to a model in memory: loaded, started from, checked, in shards."""
