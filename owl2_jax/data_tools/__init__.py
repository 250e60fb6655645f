"""What is done to data before a run: prepare it, check it, build the embedded corpus.

Knows data and core, no model; no run knows it.
"""
