"""Benchmarks: examples, prompt, score. Knows no training."""
