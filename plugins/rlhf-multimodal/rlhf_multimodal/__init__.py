"""Images beside text in reward models."""
