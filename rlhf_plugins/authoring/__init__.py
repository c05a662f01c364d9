"""Writes packages of plugins to start from. Its templates are whole, working modules."""
