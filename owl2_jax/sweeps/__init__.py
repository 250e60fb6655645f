"""Grids of a config's changes, their runs, tables and plots. Starts the other commands, imports none."""
