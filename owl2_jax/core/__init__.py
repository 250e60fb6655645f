"""Words everyone uses: axis letters, named trees, ranges, errors, text files, locks and compiled programs.

Knows nothing else of ours.
"""
