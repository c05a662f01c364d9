"""Whether prompts and responses are like those of training: on texts, on features, and as a reward that abstains."""
