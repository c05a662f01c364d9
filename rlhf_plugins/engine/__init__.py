"""Language models: loading, the forward pass over branches, log-probabilities, sampling. No trainer."""
