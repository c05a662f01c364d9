"""A reward without a bias for length: a head with two outputs, its loss, and rows with the lengths that it reads."""
