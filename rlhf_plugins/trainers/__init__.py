"""Thin subclasses of TRL's trainers: built objects in, no names, no registry. The only package that leans on TRL."""
