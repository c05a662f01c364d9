"""Training on new data without forgetting the old."""
