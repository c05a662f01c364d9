"""Plugins that act when a run begins, logs and ends, one a file; who runs calls the hooks and knows none of them."""
