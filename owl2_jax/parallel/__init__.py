"""Meshes, the table of logical axes, shardings, several hosts. Knows names of axes, no model."""
