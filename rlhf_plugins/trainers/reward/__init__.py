"""Training of reward models, as a trainer of TRL."""
