"""Rewards of single users: a basis that all share, and a few weights for each."""
