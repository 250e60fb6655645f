"""What a user should know of how PyTorch weights were read."""

from __future__ import annotations

from pathlib import Path


def print_notes(*directories: Path) -> None:
    """Prints a line for each thing that was decided at reading; none for directories of ours."""
    from owl2_jax.convert.source import Source

    for directory in directories:
        if (directory / "config.json").is_file() and not (directory / "model.json").exists():
            for note in Source(directory).notes:
                print(f"note: {note}")
