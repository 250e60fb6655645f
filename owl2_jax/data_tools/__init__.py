"""What is done to data before a run: prepare it, check it, build a corpus, see what can be learnt.

Knows data and core, no model; no run knows it.
"""
