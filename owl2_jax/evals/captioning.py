"""Captioning: COCO (Karpathy test), Flickr30k, NoCaps, TextCaps.

Scores are percent, as papers print them: CIDEr 137.3 is the package's 1.373.
An image's own score in the result file is its CIDEr, which exists only after
the whole corpus is known, since rare words count more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from owl2_jax.core.file_writing import write_text
from owl2_jax.core.json_files import Json
from owl2_jax.core.overriding import override
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals.base import Answered, Benchmark, Decoding, Question, Summary
from owl2_jax.evals.broken import Broken
from owl2_jax.evals.files import DataFile, read_rows
from owl2_jax.evals.metrics.captions import (
    DEFAULT_METRICS,
    METRICS,
    caption_scores,
    require_captions,
    spice_is_missing,
)
from owl2_jax.evals.rows import identifier, parse_rows, text, texts

KARPATHY = "cs.stanford.edu/people/karpathy/deepimagesent"
COCO = "cocodataset.org/#download"


class Captioning(Benchmark):
    """One sentence an image, scored against several by people."""

    prompt = PROMPTS["caption"]
    metric = "CIDEr"
    decoding = Decoding(max_new_tokens=60, min_new_tokens=8)
    scale = 150.0

    def question(self, name: str, image: Path, references: Json, **info: Json) -> Question:
        """A question of the file's row."""
        references = texts(references, "the list of reference captions")
        return Question(name, self.prompt.text(), self.prompt.hash, references, (image,), info=info)

    @override
    def check(self) -> None:
        require_captions()

    @override
    def score(self, question: Question, prediction: str) -> float | None:
        return None

    @override
    def left_out(self) -> dict[str, str]:
        why = spice_is_missing()
        return {"SPICE": why} if why else {}

    @override
    def summarise(self, answered: Sequence[Answered]) -> Summary:
        metrics = DEFAULT_METRICS if self.left_out() else METRICS
        corpus, images = _corpus_scores(answered, metrics)
        return Summary(corpus, [images[answer.question.id] for answer in answered])

    @override
    def export(self, answered: Sequence[Answered], folder: Path) -> list[Path]:
        """The COCO result format: a list of image_id and caption."""
        rows = [
            {"image_id": _number(answer.question.id), "caption": answer.prediction} for answer in answered
        ]
        path = folder / "captions_results.json"
        write_text(path, json.dumps(rows))
        return [path]


def _corpus_scores(
    answered: Sequence[Answered], metrics: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """(corpus scores in percent, CIDEr of each image as a fraction)."""
    corpus, images = caption_scores(
        {answer.question.id: answer.prediction for answer in answered},
        {answer.question.id: answer.question.answer for answer in answered},
        metrics,
    )
    return (
        {metric: 100.0 * value for metric, value in corpus.items()},
        {name: scores["CIDEr"] for name, scores in images.items()},
    )


def _number(name: str) -> int | str:
    return int(name) if name.isascii() and name.isdigit() else name


class CocoCaptions(Captioning):
    """COCO 2014, the 5 000 test images of Karpathy's split."""

    title = "COCO captions"
    published = 137.3
    files = (
        DataFile("coco/dataset_coco.json", f"{KARPATHY} (caption_datasets.zip)"),
        DataFile("coco/val2014", f"{COCO} (2014 val images)"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path = self.data_file(root)
        self.data_file(root, 1)

        def parse(row: dict) -> Question | None:
            if row["split"] != "test":
                return None
            image = root / "coco" / row["filepath"] / row["filename"]
            return self.question(identifier(row["cocoid"], "cocoid"), image, _sentences(row))

        yield from parse_rows(path, read_rows(path, "images"), parse)


class Flickr30k(Captioning):
    """Flickr30k, the 1 000 test images of Karpathy's split."""

    title = "Flickr30k captions"
    published = 85.1
    files = (
        DataFile("flickr30k/dataset_flickr30k.json", f"{KARPATHY} (caption_datasets.zip)"),
        DataFile("flickr30k/flickr30k-images", "shannon.cs.illinois.edu/DenotationGraph"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 1)

        def parse(row: dict) -> Question | None:
            if row["split"] != "test":
                return None
            return self.question(row["filename"], images / row["filename"], _sentences(row))

        yield from parse_rows(path, read_rows(path, "images"), parse)

    @override
    def export(self, answered: Sequence[Answered], folder: Path) -> list[Path]:
        return []  # every reference is public, and no server scores it


def _sentences(row: dict) -> list[str]:
    return [sentence["raw"] for sentence in row["sentences"]]


class NoCaps(Captioning):
    """NoCaps validation: 4 500 images, scored whole and by how near they are to COCO."""

    title = "NoCaps val"
    files = (
        DataFile("nocaps/nocaps_val_4500_captions.json", "nocaps.org/download"),
        DataFile("nocaps/val", "nocaps.org/download (images, by file_name)"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 1)
        references: dict[str, list[Json]] = {}
        for caption in parse_rows(path, read_rows(path, "annotations"), _caption):
            if isinstance(caption, Broken):
                yield caption
            else:
                references.setdefault(caption[0], []).append(caption[1])

        def parse(row: dict) -> Question:
            name = identifier(row["id"], "id")
            domain = text(row["domain"], "the domain")
            if name not in references:
                raise ValueError(f"image {name} has no caption under annotations")
            return self.question(name, images / row["file_name"], references[name], domain=domain)

        yield from parse_rows(path, read_rows(path, "images"), parse)

    @override
    def summarise(self, answered: Sequence[Answered]) -> Summary:
        summary = super().summarise(answered)
        domains = dict.fromkeys(answer.question.info["domain"] for answer in answered)
        for domain in domains:
            # Each part is a corpus of its own, as on the benchmark's server.
            part = [answer for answer in answered if answer.question.info["domain"] == domain]
            summary.metrics[f"CIDEr {domain}"] = _corpus_scores(part, ["CIDEr"])[0]["CIDEr"]
        return summary


def _caption(row: dict) -> tuple[str, Json]:
    return identifier(row["image_id"], "image_id"), row["caption"]  # read with its image


class TextCaps(Captioning):
    """TextCaps validation: captions that read the text in 3 166 images."""

    title = "TextCaps val"
    files = (
        DataFile("textcaps/TextCaps_0.1_val.json", "textvqa.org/textcaps/dataset"),
        DataFile("textvqa/train_images", "textvqa.org/dataset (train_val_images.zip)"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 1)

        def parse(row: dict) -> Question:
            name = identifier(row["image_id"], "image_id")
            return self.question(name, images / f"{name}.jpg", row["reference_strs"])

        # The file has a row for each caption; all rows of an image hold all its references.
        asked: set[str] = set()
        for question in parse_rows(path, read_rows(path, "data"), parse):
            if isinstance(question, Broken):
                yield question
            elif question.id not in asked:
                asked.add(question.id)
                yield question
