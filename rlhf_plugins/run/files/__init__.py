"""What a run keeps in its folder, and what is read from there again."""
