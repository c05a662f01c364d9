"""The stages that a recipe can run, one per file: each connects data, a model and a trainer."""
