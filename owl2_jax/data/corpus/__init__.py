"""Builder of the embedded corpus; run it with `python -m owl2_jax.data.corpus.build --output DIR`."""
