"""Parameter files and the arrays in them: written whole, read in parts. Knows no model."""
