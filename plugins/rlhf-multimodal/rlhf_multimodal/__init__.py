"""Images and recordings beside text in reward models."""
