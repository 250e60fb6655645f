"""Beam search on the model runner: the best of several answers that grow together. Knows no web."""
