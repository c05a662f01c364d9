"""Recipes: YAML text -> checked options -> assembled objects -> a staged run."""
