"""Models: loading, the forward pass over branches, the reward model. It knows tensors and weights, no trainer."""
