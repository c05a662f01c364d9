"""Generation over keys and values that stay where they are, so that a step of it can be recorded as a CUDA graph."""
