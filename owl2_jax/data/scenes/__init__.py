"""Scenes of simple things, made from seeds: what is in them, how they look, what is asked.

Knows images and records, no model.
"""
