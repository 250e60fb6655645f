"""A model that answers: one scheduler over a paged cache, the step program, chat turns. Knows no web."""
