"""What users get wrong, as programs: one clear line, an exit code that is not 0, nothing on disk damaged."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.environment import environment


def owl2(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "owl2_jax.cli.main", *arguments],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def png_of_size(width: int, height: int) -> bytes:
    """A small file that says it is an image of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


PROMPTS = [
    ("corrupt", "<|image|>What?", ["broken.png"], r"broken\.png is damaged: .*; replace the file"),
    (
        "huge",
        "<|image|>What?",
        ["huge.png"],
        r"huge\.png takes 60000 x 60000 pixels, expected at most 89478485",
    ),
    (
        "no image",
        "<|image|>What?",
        ["text.png"],
        r"is no image of a known kind; expected one of JPEG, PNG",
    ),
    ("missing", "<|image|>What?", ["none.png"], r"cannot read the image none\.png: No such file"),
    (
        "unknown tag",
        "<img>What?",
        ["0.png"],
        r"0 image tags '<\|image\|>' for 1 images \('<img>' is not this run's tag\)",
    ),
    ("more tags", "<|image|><|image|>What?", ["0.png"], r"2 image tags '<\|image\|>' for 1 images"),
    ("fewer tags", "<|image|>What?", ["0.png", "1.png"], r"1 image tags '<\|image\|>' for 2 images"),
    ("long", "What " * 999, [], r"positions .* and the model \d+, .*; shorten the prompt"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory, checkpoint, images) -> tuple[subprocess.CompletedProcess[str], dict[str, dict]]:
    """One run of `owl2 generate` over all bad prompts and a good one at the end."""
    folder = tmp_path_factory.mktemp("bad")
    for file in images.iterdir():
        shutil.copy(file, folder)
    (folder / "huge.png").write_bytes(png_of_size(60_000, 60_000))
    (folder / "text.png").write_text("no image")
    rows = [
        {"id": name, "messages": [{"role": "user", "content": text}], "images": shown}
        for name, text, shown, _ in [*PROMPTS, ("good", "<|image|>What?", ["0.png"], "")]
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = fingerprint(checkpoint)
    done = owl2(
        *("generate", f"--checkpoint={checkpoint}", "--input=in.jsonl", "--output=out.jsonl"),
        *("--max-new-tokens=3", "--sequences=2"),
        cwd=folder,
    )
    assert fingerprint(checkpoint) == before
    lines = (folder / "out.jsonl").read_text().splitlines()
    return done, {row["id"]: row for row in map(json.loads, lines)}


def test_bad_prompts_are_counted_and_the_exit_code_tells(answers):
    done, rows = answers
    assert done.returncode == 1
    assert f"{len(PROMPTS)} prompts could not be answered" in done.stdout + done.stderr
    assert "text" in rows["good"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "message"), [(name, message) for name, _, _, message in PROMPTS])
def test_each_bad_prompt_says_what_was_found(answers, name, message):
    error = answers[1][name]["error"]
    assert re.search(message, error), error
    assert "\n" not in error


def half_written(model: Path) -> None:
    """As a copy that was stopped leaves it: a file of the parameters is short."""
    largest = max(
        (file for file in (model / "params").rglob("*") if file.is_file()), key=lambda f: f.stat().st_size
    )
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def of_another_config(model: Path) -> None:
    values = json.loads((model / "model.json").read_text())
    values["model"]["decoder"]["num_layers"] += 1
    (model / "model.json").write_text(json.dumps(values))


def of_another_tokenizer(model: Path) -> None:
    values = json.loads((model / "model.json").read_text())
    values["model"]["decoder"]["vocab_size"] += 7
    (model / "model.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"is not a directory; expected a model or run directory, as `owl2 train` and"),
        (half_written, r"params is damaged: .*; copy it again"),
        (of_another_config, r"is \[2, .*expected \[3, "),
        (of_another_tokenizer, r"tokenizer .* \d+ pieces.* vocab_size|is \[\d+, .*expected \[\d+"),
    ],
    ids=["missing", "half-written", "of another config", "of another tokenizer"],
)
def test_a_checkpoint_that_cannot_be_used_is_refused_and_left_as_it_is(checkpoint, tmp_path, damage, message):
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    damage(model)
    before = fingerprint(model)
    done = owl2("chat", f"--checkpoint={model}", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert re.search(message, done.stderr), done.stderr
    assert fingerprint(model) == before
