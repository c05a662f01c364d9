"""Preferences on their way to a model: reading, converting, checking and laying out."""
