"""Where a reward model does worse: by group, and in clusters of its worst rows."""
