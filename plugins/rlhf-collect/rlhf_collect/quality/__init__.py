"""Whether a person works with care: tests on what they answered."""
