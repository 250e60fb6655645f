"""One short file per command: parse, build, call. Knows every room; none knows it."""
