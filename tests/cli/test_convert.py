"""`owl2 convert`: each action's way through, what it prints and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from owl2_jax.checkpoint.param_files import read_model_json
from owl2_jax.cli.main import main
from owl2_jax.convert.source import Source
from tests.convert.starting_points import LlamaSizes, write_clip, write_llama

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


def convert(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    assert convert("to-jax", "--source", GOLDEN / "B/hf", "--output", tmp_path / "model") == 0
    return tmp_path / "model"


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = tmp_path / "model"
    assert convert("to-jax", "--source", GOLDEN / "B/hf", "--output", model) == 0
    printed = capsys.readouterr().out
    assert f"wrote {model} (float32)" in printed
    assert "convert it once more with --tokenizer FILE" in printed
    output = tmp_path / "hf"
    assert convert("to-torch", "--checkpoint", model, "--output", output, "--with-buffers") == 0
    assert f"wrote {output} (1 weight file)" in capsys.readouterr().out
    there, back = Source(GOLDEN / "B/hf"), Source(output)
    assert there.specs == back.specs
    assert all(there.read(name).tobytes() == back.read(name).tobytes() for name in there.specs)


def test_dtype_and_shards(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ("--checkpoint", model, "--output", tmp_path / "hf", "--dtype", "float16")
    assert convert("to-torch", *arguments, "--max-shard-size", "50KB") == 0
    files = len(list((tmp_path / "hf").glob("*.safetensors")))
    assert files > 1
    assert f"({files} weight files)" in capsys.readouterr().out
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["torch_dtype"] == "float16"


def test_resize(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ("--checkpoint", model, "--output", tmp_path / "out", "--image-size", 112)
    assert convert("resize", *arguments, "--num-queries", 6) == 0
    assert "(112 pixels, 6 queries)" in capsys.readouterr().out
    values = read_model_json(tmp_path / "out")["model"]
    assert (values["vision"]["image_size"], values["abstractor"]["num_queries"]) == (112, 6)


def test_verify_tells_each_array_and_ends_with_1_beyond_tolerance(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with np.load(GOLDEN / "B" / "golden.npz") as file:
        wanted = ("vision/pixel_values", "vision/hidden_states", "vision/embeddings")
        arrays = {name: file[name] for name in wanted}
    np.savez(tmp_path / "good.npz", **arrays)
    arrays["vision/hidden_states"][1, 0, 0, 0] += 1
    np.savez(tmp_path / "bad.npz", **arrays)
    capsys.readouterr()
    assert convert("verify", "--checkpoint", model, "--golden", tmp_path / "good.npz") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [
        ["ok", "vision/hidden_states"],
        ["ok", "vision/embeddings"],
    ]
    assert lines[2] == "all 2 arrays are within tolerance"
    assert convert("verify", "--checkpoint", model, "--golden", tmp_path / "bad.npz") == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        "1 of 2 arrays are beyond tolerance; the first layer that differs: "
        "vision/hidden_states, vision state 1"
    )


def test_init(tmp_path: Path, toy_tokenizer, capsys: pytest.CaptureFixture) -> None:
    write_llama(tmp_path / "llama", LlamaSizes(), toy_tokenizer.bytes)
    write_clip(tmp_path / "clip")
    arguments = ("--llama", tmp_path / "llama", "--clip", tmp_path / "clip", "--output", tmp_path / "out")
    assert convert("init", *arguments, "--abstractor-layers", 1, "--dtype", "bfloat16") == 0
    assert "(bfloat16, 224 pixels)" in capsys.readouterr().out
    assert read_model_json(tmp_path / "out")["model"]["abstractor"]["num_queries"] == 64


def test_bad_input_is_one_line_and_exit_code_2_and_nothing_on_disk(tmp_path: Path) -> None:
    """As a process of its own, as users meet it."""
    model = tmp_path / "model"
    assert convert("to-jax", "--source", GOLDEN / "A/hf", "--output", model) == 0
    (model / "params" / "decoder.embedding" / "0.0").unlink()
    arguments = ["convert", "to-torch", "--checkpoint", str(model), "--output", str(tmp_path / "hf")]
    run = subprocess.run(
        [sys.executable, "-m", "owl2_jax.cli.main", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith(f"error: {model}/params is damaged: ")
    assert run.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_an_action_is_required(capsys: pytest.CaptureFixture) -> None:
    assert convert() == 2
    assert "owl2 convert needs ACTION" in capsys.readouterr().err


def test_how_a_source_was_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = tmp_path / "hf"
    source.mkdir()
    for name in ("config.json", "model.safetensors"):
        (source / name).write_bytes((GOLDEN / "B/hf" / name).read_bytes())
    (source / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    (source / "tokenizer.json").write_text("{}")
    assert convert("to-jax", "--source", source, "--output", tmp_path / "model") == 0
    printed = capsys.readouterr().out
    assert "note: " + str(source / "model.safetensors") + " was read, as the original does" in printed
    assert "has tokenizer.json alone, which is not read here; copy tokenizer.model" in printed
