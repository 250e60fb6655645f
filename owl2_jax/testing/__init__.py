"""A tiny model, its inputs and a toy tokenizer. Knows model and data; only tests and examples know it."""
