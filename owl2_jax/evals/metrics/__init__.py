"""Scores of answers, each as its authors publish it. Pure functions of texts."""
