"""Offline inference: a file of prompts in, a file of answers out. Knows no device and no web."""
