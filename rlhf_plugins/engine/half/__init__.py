"""Fast paths in half precision, on any device: each is compared with the plain computation there before its use."""
