"""Pure computation on tensors and arrays: masks, likelihoods, objectives, rankings."""
