"""One short file per command: parse, build, call. Nothing imports it."""
