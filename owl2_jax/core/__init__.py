"""Words everyone uses: axis letters, named trees, ranges, errors, text files and locks.

Knows nothing else of ours.
"""
