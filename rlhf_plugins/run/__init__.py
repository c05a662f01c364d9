"""Runs a recipe's stages and keeps what they finish in a folder that survives a crash."""
