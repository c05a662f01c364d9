"""Online training: `rollout` makes what is learned from, `step` computes the loss, `oversight` shows both."""
