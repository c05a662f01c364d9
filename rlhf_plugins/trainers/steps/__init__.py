"""How a training step is computed: which examples, in which pieces and processes, and again where memory ran out."""
