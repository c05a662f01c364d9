"""Formats of preference data: the rows of a file, in the shapes that people have, become groups."""
