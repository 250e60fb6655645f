"""Grids of a config's changes, their runs, tables and plots.

Starts the other commands as processes: knows their files and the root config, none of their code.
"""
