"""Bundled components, one kind a file, registered through the public hooks alone."""
