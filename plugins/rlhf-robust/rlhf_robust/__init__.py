"""Losses of reward models for data that are not all alike, not all right, or not quite what the model will see."""
