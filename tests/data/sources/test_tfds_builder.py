from __future__ import annotations

import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from owl2_jax.core.buckets import upload_folder
from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.data.sources import bucket_files
from owl2_jax.data.sources.tfds_builder import TfdsSource
from tests.data.sources.images import image

FIELDS = {"id": "key", "image": "image", "question": "question", "answer": "label", "answers": "answers"}


class Owl2SourceTest(tfds.core.GeneratorBasedBuilder):
    """A tiny visual question answering set."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "key": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "views": tfds.features.Sequence(tfds.features.Image(shape=(None, None, 3))),
            "question": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["red", "blue"]),
            "answers": tfds.features.Sequence(tfds.features.Text()),
            "turns": tfds.features.Sequence({"from": tfds.features.Text(), "value": tfds.features.Text()}),
            "nested": {"caption": tfds.features.Text()},
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(4)), "validation": self._generate_examples([7])}

    def _generate_examples(self, numbers):
        for i in numbers:
            yield (
                i,
                {
                    "key": f"k{i}",
                    "image": io.BytesIO(image(i)),
                    "views": [io.BytesIO(image(i)), io.BytesIO(image(i + 1))],
                    "question": "which color?",
                    "label": i % 2,
                    "answers": ["red", "blue"],
                    "turns": [
                        {"from": "human", "value": "<image><image>What?"},
                        {"from": "gpt", "value": f"A caf\u00e9 {i}."},
                    ],
                    "nested": {"caption": f"caption {i}"},
                },
            )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    Owl2SourceTest(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def by_id(source):
    return {source[index]["id"]: source[index] for index in range(len(source))}


def test_features_become_examples_with_images_as_files(data_dir):
    source = TfdsSource("owl2_source_test", "train", FIELDS, data_dir=data_dir)
    examples = by_id(source)
    assert sorted(examples) == ["k0", "k1", "k2", "k3"]
    assert examples["k3"]["images"] == [image(3)]
    assert examples["k3"]["messages"] == [
        {"role": "user", "content": "<|image|>which color?"},
        {"role": "assistant", "content": "blue"},
    ]
    assert examples["k2"]["answer"] == "red"
    assert examples["k2"]["answers"] == ["red", "blue"]
    assert examples["k2"]["dataset"] == "owl2_source_test"
    assert "4 examples" in source.description()


def test_dialogues_and_sequences_of_images_are_read(data_dir):
    fields = {"id": "key", "image": "views", "conversations": "turns"}
    example = by_id(TfdsSource("owl2_source_test:1.0.0", "train", fields, data_dir=data_dir, dataset="d"))[
        "k1"
    ]
    assert example["messages"] == [
        {"role": "user", "content": "<|image|><|image|>What?"},
        {"role": "assistant", "content": "A caf\u00e9 1."},
    ]
    shades = [np.asarray(Image.open(io.BytesIO(data)))[0, 0, 0] for data in example["images"]]
    assert shades == [1, 2]


def test_nested_features_and_text_only(data_dir):
    source = TfdsSource(
        "owl2_source_test", "validation", {"image": None, "answer": "nested/caption"}, data_dir=data_dir
    )
    assert [source[index]["answer"] for index in range(len(source))] == ["caption 7"]
    assert source[0]["images"] == []


def test_slices_of_splits_and_pickling(data_dir):
    source = TfdsSource("owl2_source_test", "train[:50%]", FIELDS, data_dir=data_dir)
    assert len(pickle.loads(pickle.dumps(source))) == len(source) == 2


def test_unknown_names_are_refused(data_dir):
    with pytest.raises(UnknownNameError, match="label"):
        TfdsSource("owl2_source_test", "train", {"answer": "lable"}, data_dir=data_dir)
    with pytest.raises(Owl2Error, match="Unknown split 'test'"):
        TfdsSource("owl2_source_test", "test", FIELDS, data_dir=data_dir)
    with pytest.raises(Owl2Error, match="no data set 'no_such_set'"):
        TfdsSource("no_such_set", "train", FIELDS, data_dir=data_dir)


def test_sets_that_are_not_prepared_say_how(tmp_path):
    with pytest.raises(Owl2Error, match="file_format=array_record"):
        TfdsSource("owl2_source_test", "train", FIELDS, data_dir=tmp_path)


def test_reading_needs_no_tensorflow_and_no_builder_code(data_dir):
    code = (
        "import sys\n"
        "from owl2_jax.data.sources.tfds_builder import TfdsSource\n"
        f"source = TfdsSource('owl2_source_test', 'train', {FIELDS!r}, data_dir={str(data_dir)!r})\n"
        "print(len(source), source[0]['question'], 'tensorflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.split("\n")[0] == "4 which color? False", result.stderr


def test_a_set_in_a_bucket_is_copied_and_goes_by_its_names_there(data_dir, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv(bucket_files.FOLDER, str(tmp_path))
    upload_folder(data_dir, bucket)
    there = TfdsSource("owl2_source_test", "train", FIELDS, data_dir=str(bucket))
    assert by_id(there) == by_id(TfdsSource("owl2_source_test", "train", FIELDS, data_dir=data_dir))
    assert all(name.startswith(f"{bucket}/owl2_source_test/1.0.0/") for name in there.files)
    with pytest.raises(Owl2Error, match=r"/other is not there: no such bucket, or no object of that name"):
        TfdsSource("other", "train", FIELDS, data_dir=str(bucket))
    bucket_files.let_go()
