"""From groups to batches: text is rendered, tokenized and laid out as tensors."""
