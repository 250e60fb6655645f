"""The files that ship inside the package."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from PIL import Image

from owl2_jax.data.sources.embedded import FOLDER, TOKENIZER, EmbeddedSource, manifest
from owl2_jax.data.sources.embedded_records import sha256
from owl2_jax.data.tokenizers import open_tokenizer
from owl2_jax.data_tools.corpus import easy_vqa
from owl2_jax.data_tools.corpus.packages import PACKAGES

MEGABYTES_ALLOWED = 10

COUNTS = {
    ("easy_vqa", "train"): 38575,
    ("easy_vqa", "test"): 9673,
    ("drawn_vqa", "train"): 13514,
    ("drawn_vqa", "test"): 1067,
    ("captions", "train"): 6928,
    ("facts", "train"): 12155,
    ("facts", "test"): 3287,
}


def test_files_are_those_of_the_manifest_and_fit_the_size():
    entries = [manifest()["pictures"], manifest()["tokenizer"], *manifest()["splits"].values()]
    for entry in entries:
        assert sha256(FOLDER / entry["file"]) == entry["sha256"], entry["file"]
    assert {path.name for path in FOLDER.iterdir()} == {entry["file"] for entry in entries} | {
        "manifest.json",
        "NOTICE",
    }
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MEGABYTES_ALLOWED * 1_000_000


def test_manifest_and_notice_name_every_package():
    assert manifest()["packages"] == {package.name: package.version for package in PACKAGES.values()}
    notice = (FOLDER / "NOTICE").read_text(encoding="utf-8")
    for package in PACKAGES.values():
        assert f"{package.name} {package.version}" in notice
    for licence in ("MIT License", "BSD License", "CC-BY 4.0"):
        assert licence in notice


@pytest.mark.parametrize("name", COUNTS, ids="-".join)
def test_split_has_its_examples_and_unique_ids(name):
    source = EmbeddedSource(*name)
    assert len(source) == COUNTS[name]
    assert sum(source.kind_counts().values()) == COUNTS[name]
    assert len({source[index]["id"] for index in range(len(source))}) == COUNTS[name]
    assert source.kind_counts() == manifest()["splits"]["-".join(name)]["kinds"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_easy_vqa_is_the_official_split(split):
    source = EmbeddedSource("easy_vqa", split)
    answers = {answer for _, _, answer in source.question_answers()}
    assert answers == {"yes", "no", *easy_vqa.SHAPES, *easy_vqa.COLORS}
    assert source.kind_counts()["yes_no"] == {"train": 28407, "test": 7136}[split]
    images = {source[index]["images"][0] for index in range(len(source))}
    assert len(images) == {"train": 4000, "test": 1000}[split]


def test_splits_share_no_image():
    for dataset in ("easy_vqa", "drawn_vqa"):
        train, test = (
            {source[index]["images"][0] for index in range(len(source))}
            for source in (EmbeddedSource(dataset), EmbeddedSource(dataset, "test"))
        )
        assert not train & test
        captions = EmbeddedSource("captions")
        assert not test & {captions[index]["images"][0] for index in range(len(captions))}


def test_every_image_opens_with_its_size():
    sizes = Counter()
    for dataset, split in COUNTS:
        source = EmbeddedSource(dataset, split)
        if dataset == "facts":
            assert all(source[index]["images"] == [] for index in range(0, len(source), 97))
            continue
        shown = {source[index]["images"][0] for index in range(len(source))}
        sizes |= Counter(Image.open(io.BytesIO(data)).convert("RGB").size for data in shown)
    assert set(sizes) == {(64, 64), (72, 72)}


def test_test_questions_about_facts_are_new_phrasings_of_taught_answers():
    train = EmbeddedSource("facts").question_answers()
    test = EmbeddedSource("facts", "test").question_answers()
    assert not {question for _, question, _ in train} & {question for _, question, _ in test}
    assert {(kind, answer) for kind, _, answer in test} <= {(kind, answer) for kind, _, answer in train}


def test_captions_agree_with_the_questions_about_the_same_image():
    captions = EmbeddedSource("captions", kinds=["shape"])
    told = {captions[index]["image_keys"][0]: captions[index]["answer"] for index in range(len(captions))}
    questions = EmbeddedSource("easy_vqa", kinds=["color", "shape"])
    for index in range(len(questions)):
        example = questions[index]
        caption = told.get(example["image_keys"][0])
        assert caption is None or example["answer"] in caption.split()


def test_tokenizer_is_llama_like_and_spends_few_pieces_on_the_corpus():
    tokenizer = open_tokenizer(str(TOKENIZER))
    assert (tokenizer.vocab_size, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (4096, 0, 1, 2)
    # One piece per word and one for the question mark.
    for _, question, answer in EmbeddedSource("easy_vqa", "test").question_answers():
        assert len(tokenizer.encode(question)) == len(question.split()) + 1
        assert len(tokenizer.encode(answer)) == 1
    assert len(tokenizer.encode("a red circle")) == 3
    assert tokenizer.decode(tokenizer.encode("São Tomé \u732b 42")) == "São Tomé \u732b 42"


def test_manifest_is_plain_json_of_format_one():
    assert json.loads((FOLDER / "manifest.json").read_text())["format"] == 1
