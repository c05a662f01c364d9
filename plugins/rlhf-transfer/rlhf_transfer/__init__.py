"""What one model learns from another: a strong one from a weak one's labels, a small one from a large one's answers."""
