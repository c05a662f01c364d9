"""Subclasses of TRL's trainers that take components as objects; TRL is imported here and in `stages` alone."""
