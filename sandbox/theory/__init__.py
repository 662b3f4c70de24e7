"""Statistics of sample complexity, and the theory's predictions beside them."""
