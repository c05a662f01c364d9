"""Bundled plugins with hooks of a run, one per file; the runner calls the hooks and knows none of them."""
