"""What causes a reward: the same responses with one thing changed."""
