"""How far annotators agree beyond chance. Arithmetic on counts."""
