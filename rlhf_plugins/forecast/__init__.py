"""How much memory a recipe will take on a GPU, before any weight is loaded."""
