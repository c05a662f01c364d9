"""The live page and the terminal view: `series` and `board` keep what runs log, the others show it."""
