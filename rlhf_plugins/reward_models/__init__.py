"""Reward models and ensembles: backbone, pooling and head, how they are saved, opened and cached."""
