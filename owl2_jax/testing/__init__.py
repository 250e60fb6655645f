"""A tiny model, its inputs and a toy tokenizer, for tests and examples."""
