"""A small network that knows nothing of language, trained on scenes: what their images let one know."""
