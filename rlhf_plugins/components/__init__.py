"""Bundled components, one kind per file, registered through the same hooks as third-party ones."""
