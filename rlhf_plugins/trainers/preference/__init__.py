"""Training on preferences without a reward model, as a trainer of TRL."""
