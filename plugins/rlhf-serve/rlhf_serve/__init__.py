"""A reward model behind HTTP, and the reward that asks it."""
