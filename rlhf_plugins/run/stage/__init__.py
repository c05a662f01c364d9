"""One stage of a run: where it starts, its inputs, how it is resumed, its result."""
