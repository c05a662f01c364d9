"""What packages agree on: base classes of components, records, hooks, and the guards that check each call."""
