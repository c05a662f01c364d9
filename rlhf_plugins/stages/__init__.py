"""What a recipe can run, one stage a file. A stage joins data, model and trainer; it compares no names."""
