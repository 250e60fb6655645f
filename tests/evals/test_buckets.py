"""Benchmarks whose published files lie in a bucket: the questions and images of a disk."""

from __future__ import annotations

import pytest

from owl2_jax.core.buckets import upload_folder
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data import images
from owl2_jax.evals import mmmu, text, vqa
from owl2_jax.evals.files import DataFile
from owl2_jax.evals.loading import load_questions, missing_images
from tests.evals.test_mmmu import mmmu_files
from tests.evals.test_text import bbh_files, mmlu_files
from tests.evals.test_vqa import vqav2_files


def content(image) -> bytes:
    return image if isinstance(image, bytes) else images.read_file(image)


def assert_same(benchmark, there, here):
    found, _ = load_questions("x", benchmark, there, None)
    expected, _ = load_questions("x", benchmark, here, None)
    for one, other in zip(found, expected, strict=True):
        assert (one.id, one.prompt, one.answer, one.shorter) == (
            other.id,
            other.prompt,
            other.answer,
            other.shorter,
        )
        assert one.file.replace(str(there), "") == other.file.replace(str(here), "")
        assert list(map(content, one.images)) == list(map(content, other.images))
    assert missing_images(found) == {}


@pytest.mark.parametrize(
    ("fill", "benchmark"),
    [(vqav2_files, vqa.VQAv2), (mmlu_files, text.MMLU), (bbh_files, text.BBH)],
)
def test_questions_and_images_are_those_of_a_disk(folder, bucket, fill, benchmark):
    fill(folder)
    upload_folder(folder.root, bucket)
    assert_same(benchmark(), bucket, folder.root)


def test_tables_of_parquet_are_read_from_a_bucket(folder, bucket, image_bytes):
    mmmu_files(folder, image_bytes)
    upload_folder(folder.root, bucket)
    assert_same(mmmu.MMMU(), bucket, folder.root)


def test_missing_images_are_found_by_one_listing_of_their_folder(folder, bucket, bucket_server):
    vqav2_files(folder)
    upload_folder(folder.root, bucket)
    (bucket / "coco/val2014/COCO_val2014_000000000042.jpg").unlink()
    (bucket / "coco/val2014/another.jpg").write_bytes(b"x")
    questions, _ = load_questions("x", vqa.VQAv2(), bucket, None)
    bucket_server.requests.clear()
    missing = missing_images(questions)
    assert list(missing) == [0, 1]
    assert missing[0] == f"{bucket / 'coco/val2014/COCO_val2014_000000000042.jpg'} is missing"
    assert len(bucket_server.requests) <= 2


def test_a_file_that_is_not_there_is_named_with_where_it_belongs(bucket):
    (bucket / "vqav2" / "near.json").write_text("{}")
    with pytest.raises(Owl2Error, match=r"neer.json is missing. Get neer.json from x.org and put it at"):
        DataFile("vqav2/neer.json", "x.org").require(bucket)
