"""Looking at training data before a run: counts, lengths, packing, and samples as the model gets them.

Knows data alone, no model.
"""
