"""Fast paths for float32 on a CPU. Each is compared with the plain computation before it is used."""
