"""Commands whose runs, checkpoints and outputs lie in a bucket."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from owl2_jax.checkpoint.param_files import read_model_json, resolve_checkpoint, restore_params
from owl2_jax.cli.main import main
from owl2_jax.core.append_file import read_whole_lines, write_lines
from owl2_jax.core.buckets import files_below, upload_folder
from owl2_jax.core.tree import flatten
from owl2_jax.training.logging.metrics import read_metrics
from tests.evals.conftest import Folder
from tests.evals.test_vqa import vqav2_files
from tests.training import runs


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return runs.write_config(tmp_path_factory.mktemp("configs") / "small.py")


def train(config, run, *overrides: str) -> int:
    fields = ["mesh.data=8", "train.save_every_steps=2", "train.log_every_steps=1", *overrides]
    return main(["train", f"--config={config}", f"--workdir={run}", *fields])


def parameters(run) -> dict[str, np.ndarray]:
    return flatten(restore_params(resolve_checkpoint(run).params))


@pytest.mark.slow
def test_a_run_in_a_bucket_and_its_rest_are_those_of_a_disk(config, bucket, tmp_path, capsys):
    assert train(config, bucket, "train.total_steps=2") == 0
    assert train(config, bucket, "train.total_steps=4") == 0
    assert train(config, bucket, "train.total_steps=4") == 0
    assert capsys.readouterr().out.endswith(f"{bucket} is complete: step 4 is saved\n")
    assert train(config, tmp_path / "run", "train.total_steps=4") == 0
    there, here = parameters(bucket), parameters(tmp_path / "run")
    assert there.keys() == here.keys()
    assert all(np.array_equal(there[name], here[name]) for name in here)
    assert [line["step"] for line in read_metrics(bucket)] == [1, 2, 3, 4]
    names = {path.name for path in bucket.iterdir()}
    assert names >= {"config.json", "model.json", "run.json", "data.json", "metrics.jsonl", "checkpoints"}
    assert "owl2.lock" not in names
    assert len(list((bucket / "tensorboard").iterdir())) == 2
    assert not Path("gs:").exists()


@pytest.mark.slow
def test_a_run_starts_from_a_checkpoint_in_a_bucket(config, model, bucket, tmp_path):
    sizes = [f"--output={bucket / 'start'}", "--num-queries=3"]
    assert main(["convert", "resize", f"--checkpoint={model}", *sizes]) == 0
    values = read_model_json(bucket / "start")["model"]
    vocabulary = values["decoder"]["vocab_size"]
    fields = [f"train.start_from={bucket / 'start'}", "model.abstractor.num_queries=3"]
    tokenizer = f"data.tokenizer={bucket / 'start' / 'tokenizer.model'}"
    fields += [f"model.decoder.vocab_size={vocabulary}", tokenizer, "train.total_steps=1"]
    assert train(config, tmp_path / "run", *fields, "train.schedule.warmup_steps=0") == 0
    there, taken = parameters(bucket / "start"), parameters(tmp_path / "run")
    frozen = [name for name in there if name.startswith("vision/")]
    assert frozen
    assert all(np.array_equal(taken[name], there[name]) for name in frozen)


@pytest.fixture
def model(checkpoint, bucket):
    """The tiny model directory, in the bucket."""
    upload_folder(checkpoint, bucket / "model")
    return bucket / "model"


def test_what_generate_reads_and_writes_lies_in_a_bucket(model, bucket, images, tmp_path, capsys):
    rows = [{"prompt": "Hello", "id": "a"}, {"prompt": "<|image|>What?", "images": ["0.png"], "id": "b"}]
    write_lines(bucket / "in.jsonl", rows)
    write_lines(tmp_path / "in.jsonl", rows)
    (bucket / "0.png").write_bytes((images / "0.png").read_bytes())
    (tmp_path / "0.png").write_bytes((images / "0.png").read_bytes())

    def generate(folder) -> int:
        files = [f"--input={folder}/in.jsonl", f"--output={folder}/out.jsonl"]
        return main(["generate", f"--checkpoint={model}", *files, "--max-new-tokens=3", "--sequences=2"])

    assert generate(bucket) == 0
    there = read_whole_lines(bucket / "out.jsonl")
    assert [line["id"] for line in there] == ["a", "b"]
    assert generate(bucket) == 0, "nothing is asked again"
    assert "2 of them from before" in capsys.readouterr().out
    assert generate(tmp_path) == 0
    assert read_whole_lines(tmp_path / "out.jsonl") == there
    assert not (bucket / "out.jsonl.lock").exists()


def test_results_of_evaluate_and_the_page_of_look_lie_in_a_bucket(model, bucket, images, capsys):
    output = bucket / "scores"
    arguments = [f"--checkpoint={model}", "--benchmarks=facts", "--limit=2", f"--output={output}"]
    assert main(["evaluate", *arguments]) == 0
    assert {path.name for path in output.iterdir()} == {"facts", "scores.json", "scores.md"}
    results = read_whole_lines(output / "facts" / "results.jsonl")
    assert len(results) == 2
    assert main(["evaluate", *arguments]) == 0
    page = bucket / "look.html"
    asked = [f"--image={images / '0.png'}", "--question=What?", "--max-new-tokens=2", f"--output={page}"]
    assert main(["look", f"--checkpoint={model}", *asked]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {page}\n")
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_a_checkpoint_that_is_not_there_or_of_another_kind_is_told(bucket, capsys):
    (bucket / "other" / "notes.txt").write_text("x")
    for name, words in (
        ("none", "no such bucket, or no such object in it"),
        ("other", "has neither params/"),
    ):
        assert main(["chat", f"--checkpoint={bucket / name}"]) == 2
        error = capsys.readouterr().err
        assert f"{bucket / name}" in error
        assert words in error


@pytest.mark.parametrize("status", [401, 403])
def test_rights_and_credentials_are_told_before_anything_is_compiled(
    config, bucket, bucket_server, capsys, monkeypatch, status
):
    monkeypatch.setattr("jax.jit", lambda *arguments, **options: pytest.fail("something was compiled"))
    bucket_server.fail = lambda method, path: status
    words = {401: "there are no valid credentials", 403: "roles/storage.objectUser would let it"}[status]
    for arguments in (
        ["train", f"--config={config}", f"--workdir={bucket}"],
        ["chat", f"--checkpoint={bucket}"],
        ["convert", "to-jax", f"--source={bucket}", "--output=new"],
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err


def test_chat_reads_checkpoint_and_images_of_a_bucket(model, bucket, images, monkeypatch, capsys):
    (bucket / "0.png").write_bytes((images / "0.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.StringIO("What?\n"))
    arguments = [f"--checkpoint={model}", f"--image={bucket / '0.png'}", "--max-new-tokens=2"]
    assert main(["chat", *arguments]) == 0
    assert capsys.readouterr().err == ""


def test_serve_loads_a_checkpoint_of_a_bucket(model, bucket, monkeypatch, capsys):
    loaded = []

    class Service:
        name = "x"
        about_cache = staticmethod(lambda: "cache")

        def __init__(self, model, config, engine):
            loaded.append((model, config.api_key))
            self.runner = types.SimpleNamespace(wait_ended=lambda seconds: True)

    class Server:
        failed = False

        def __init__(self, service, on_ready):
            self.run = lambda sockets: sockets[0].close()

    monkeypatch.setattr("owl2_jax.serving.service.Service", Service)
    monkeypatch.setattr("owl2_jax.serving.server.Server", Server)
    (bucket / "key.txt").write_text("secret\n")
    arguments = [f"--checkpoint={model}", "--port=0", f"--api-key-file={bucket / 'key.txt'}"]
    assert main(["serve", *arguments]) == 0
    assert loaded[0][0].config.decoder.vocab_size > 0
    assert loaded[0][1] == "secret"


def test_evaluate_reads_published_files_of_a_bucket(model, bucket, tmp_path):
    vqav2_files(Folder(tmp_path))
    upload_folder(tmp_path, bucket / "data")
    arguments = [f"--checkpoint={model}", "--benchmarks=vqav2_val", f"--data-root={bucket / 'data'}"]
    assert main(["evaluate", *arguments, f"--output={bucket / 'scores'}"]) == 0
    assert len(read_whole_lines(bucket / "scores" / "vqav2_val" / "results.jsonl")) == 2


def test_convert_reads_and_writes_model_directories_in_a_bucket(model, bucket, checkpoint, tmp_path, capsys):
    sizes = ["--image-size=28", "--num-queries=3"]
    assert main(["convert", "resize", f"--checkpoint={model}", f"--output={bucket / 'new'}", *sizes]) == 0
    local = tmp_path / "new"
    assert main(["convert", "resize", f"--checkpoint={checkpoint}", f"--output={local}", *sizes]) == 0
    names = {file.relative_to(local).as_posix() for file in local.rglob("*") if file.is_file()}
    there = {str(file.relative_to(bucket / "new")) for file in files_below(bucket / "new")}
    assert there == names
    here, found = parameters(local), parameters(bucket / "new")
    assert all(np.array_equal(found[name], here[name]) for name in here)
    assert (bucket / "new" / "model.json").read_bytes() == (local / "model.json").read_bytes()
    assert main(["convert", "resize", f"--checkpoint={model}", f"--output={bucket / 'new'}", *sizes]) == 2
    assert f"output {bucket / 'new'} exists; choose another name" in capsys.readouterr().err
    assert main(["convert", "to-torch", f"--checkpoint={bucket / 'new'}", f"--output={tmp_path / 'hf'}"]) == 0
