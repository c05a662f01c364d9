"""Online training, as a trainer of TRL; what a rollout is and how it is learned from is in `ppo`."""
