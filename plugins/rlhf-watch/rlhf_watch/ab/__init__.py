"""Comparisons of policies on the same prompts. Statistics know numbers, `scores` knows files and runs."""
