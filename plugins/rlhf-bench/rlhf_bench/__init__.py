"""Benchmarks of alignment algorithms on equal terms: the same base, preferences, compute and evaluation."""
