"""A model that answers: sampling, continuous batching, beams, chat turns, attention maps. Knows no web."""
