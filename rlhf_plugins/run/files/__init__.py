"""The files in a run's folder: written by a run, and read again."""
