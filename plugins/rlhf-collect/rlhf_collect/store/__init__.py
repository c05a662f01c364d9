"""The database of a study: what is in it, and the transactions that change it."""
