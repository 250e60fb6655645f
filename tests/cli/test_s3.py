"""Commands whose runs, checkpoints and outputs lie on Amazon's store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from owl2_jax.cli.main import main
from owl2_jax.core.append_file import read_whole_lines, write_lines
from owl2_jax.core.buckets import upload_folder
from owl2_jax.training.logging.metrics import read_metrics
from tests.cli.test_buckets import parameters, train
from tests.training import runs


@pytest.mark.slow
def test_a_run_and_its_rest_are_those_of_a_disk(s3_bucket, tmp_path, capsys):
    config = runs.write_config(tmp_path / "small.py")
    assert train(config, s3_bucket, "train.total_steps=2") == 0
    assert train(config, s3_bucket, "train.total_steps=4") == 0
    assert train(config, s3_bucket, "train.total_steps=4") == 0
    assert capsys.readouterr().out.endswith(f"{s3_bucket} is complete: step 4 is saved\n")
    assert train(config, tmp_path / "run", "train.total_steps=4") == 0
    there, here = parameters(s3_bucket), parameters(tmp_path / "run")
    assert there.keys() == here.keys()
    assert all(np.array_equal(there[name], here[name]) for name in here)
    assert [line["step"] for line in read_metrics(s3_bucket)] == [1, 2, 3, 4]
    assert "owl2.lock" not in {path.name for path in s3_bucket.iterdir()}
    assert not Path("s3:").exists()


def test_a_model_directory_is_converted_and_answers(s3_bucket, checkpoint, tmp_path):
    upload_folder(checkpoint, s3_bucket / "model")
    sizes = ["--image-size=28", "--num-queries=3"]
    new, back = s3_bucket / "new", s3_bucket / "back"
    assert main(["convert", "resize", f"--checkpoint={s3_bucket / 'model'}", f"--output={new}", *sizes]) == 0
    assert main(["convert", "to-torch", f"--checkpoint={new}", f"--output={back}"]) == 0
    assert main(["convert", "to-jax", f"--source={back}", f"--output={s3_bucket / 'again'}"]) == 0
    there, here = parameters(s3_bucket / "again"), parameters(new)
    assert all(np.array_equal(there[name], here[name]) for name in here)
    write_lines(s3_bucket / "in.jsonl", [{"prompt": "Hello", "id": "a"}])
    files = [f"--input={s3_bucket}/in.jsonl", f"--output={s3_bucket}/out.jsonl"]
    asked = ["generate", f"--checkpoint={new}", *files, "--max-new-tokens=3", "--sequences=2"]
    assert main(asked) == 0
    assert [line["id"] for line in read_whole_lines(s3_bucket / "out.jsonl")] == ["a"]


def test_an_orbax_that_cannot_be_taught_the_store_is_refused_at_the_start(
    s3_bucket, tmp_path, capsys, monkeypatch
):
    from orbax.checkpoint._src.serialization import tensorstore_utils

    monkeypatch.delattr(tensorstore_utils, "_use_gcs_driver")
    config = runs.write_config(tmp_path / "small.py")
    assert train(config, s3_bucket) == 2
    error = capsys.readouterr().err
    assert f"{s3_bucket}: orbax-checkpoint 0." in error
    assert "saves and restores nothing on s3://" in error
    assert not s3_bucket.exists()
