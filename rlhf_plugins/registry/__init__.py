"""Finds plugins and knows every component by kind and name."""
