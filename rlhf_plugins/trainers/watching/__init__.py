"""What watches a training, shows it, and ends it early."""
