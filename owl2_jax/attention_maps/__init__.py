"""Looks inside: what a model pays attention to while it answers, as numbers and as a page. Knows no web."""
