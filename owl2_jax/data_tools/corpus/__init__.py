"""Builder of the embedded corpus; run it with `python -m owl2_jax.data_tools.corpus.build --output DIR`.

Knows data alone; a run reads what it wrote and knows nothing of it.
"""
