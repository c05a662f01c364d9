"""Several objectives at once: their orders and votes as one reward, and the front of what can be had of each."""
