"""Watching trainings and trusting what they made, as plugins of rlhf-plugins."""
