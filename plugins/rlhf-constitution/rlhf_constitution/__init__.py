"""Constitutional AI: principles that score responses, critique and revision, AI feedback, self-improvement."""
