"""Builder of the embedded corpus; run it with `python -m owl2_jax.data_tools.corpus.build --output DIR`."""
