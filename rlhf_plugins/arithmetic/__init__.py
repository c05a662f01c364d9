"""Pure computation on tensors and arrays: masks, likelihoods, objectives, rankings. No model, no library of models."""
