"""The NOTICE that travels with the corpus: who made the material, and under which licence."""

from __future__ import annotations

from pathlib import Path

from owl2_jax.data_tools.corpus.packages import PACKAGES, Package

HEADER = """\
The files in this folder are made from the material of the packages below by
owl2_jax.data_tools.corpus.build.

Changes: the drawn images (Twemoji, Copyright 2019 Twitter, Inc and other
contributors, CC-BY 4.0, https://creativecommons.org/licenses/by/4.0/) were
composited on white and encoded again without loss; names were put into plain
words; questions, answers and captions were written around them. Images and
questions of easy-VQA are unchanged; its captions follow from its questions.
"""


def notice(folders: dict[str, Path]) -> str:
    """Writes the notice, with each package's licence text as its wheel carries it."""
    parts = [HEADER] + [_section(package, folders[package.name]) for package in PACKAGES.values()]
    return "\n".join(parts)


def _section(package: Package, folder: Path) -> str:
    title = f"{package.name} {package.version}: {package.contents}\nLicence: {package.licence}"
    text = (folder / package.info / package.licence_file).read_text(encoding="utf-8").strip()
    return f"{'-' * 78}\n{title}\n\n{text}\n"
