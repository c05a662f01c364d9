"""The interface of plugins: base classes of components, records, hooks, and the guards that check each call."""
