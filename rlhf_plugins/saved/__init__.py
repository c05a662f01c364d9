"""What a run saved, used elsewhere: scoring files, export, transformers' auto classes."""
