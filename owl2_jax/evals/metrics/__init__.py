"""Scores of answers, each as its authors publish it. Pure functions of texts, which know no model."""
