"""`owl2 train` as a user runs it: what it refuses and how, and how it stops."""

from __future__ import annotations

import errno
import json
import logging
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.cli.main import main
from owl2_jax.cli.train import set_up_logs
from owl2_jax.config import read_config_file
from owl2_jax.core.append_file import AppendFile
from owl2_jax.data.pipeline import load_tokenizer
from owl2_jax.model.owl2 import init_params
from owl2_jax.training.logging.metrics import read_metrics
from tests.data.corpora import dialogue, write_images, write_set
from tests.environment import environment
from tests.training import runs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with `small.py`, a config that trains in seconds, and `takes.py`, one with an argument."""
    path = tmp_path_factory.mktemp("configs")
    runs.write_config(path / "small.py")
    (path / "takes.py").write_text(
        "from owl2_jax.config import parse_argument\n"
        "def get_config(argument):\n"
        "    parse_argument(argument, image_size=448, num_queries=64)\n"
    )
    (path / "typo.py").write_text("def get_config():\n    values = {}\n    return values['trian']\n")
    (path / "empty.py").write_text("")
    return path


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A model directory with the sizes and the tokenizer of `small.py`."""
    path = tmp_path_factory.mktemp("start") / "model"
    config = runs.run_config()
    params = jax.device_get(init_params(config.model, jax.random.key(0)))
    tokenizer = load_tokenizer(config.data).bytes
    write_model_directory(path, model_json(config.model.to_dict()), params, tokenizer)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "owl2_jax.cli.main", "train", *map(str, arguments)]


@pytest.fixture
def refused(monkeypatch, capsys):
    """Gives the error of a refused command. By default any use of a device is a failure of its own."""

    def run(*arguments: object, devices: bool = False) -> str:
        with monkeypatch.context() as patched:
            if not devices:
                patched.setattr("jax._src.xla_bridge.get_backend", lambda *_, **__: pytest.fail("a device"))
            capsys.readouterr()
            assert main(["train", *map(str, arguments)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1, "one line"
        return said.err

    return run


BAD_SETTINGS = {
    "a field that does not exist": (
        ["train.sead=1"],
        r"unknown field of train 'sead'; did you mean 'seed'",
    ),
    "a group of fields that does not exist": (
        ["trian.seed=1"],
        r"unknown field of RunConfig 'trian'; did you mean",
    ),
    "a value of the wrong type": (
        ["train.seed=often"],
        r"train.seed: expected a whole number, from 0 to 4294967295, found 'often'",
    ),
    "an override without a value": (["train.seed"], r"has no value; write NAME=VALUE"),
    "a preset that does not exist": (
        ["model={'preset': 'owl2_tny'}"],
        r"unknown preset 'owl2_tny'; did you mean 'owl2_tiny'",
    ),
    "two durations": (
        ["train.total_examples=8"],
        r"set exactly one of total_steps \(4\) and total_examples \(8\)",
    ),
    "an accumulation that does not divide": (
        ["train.accumulate_steps=3"],
        r"train.accumulate_steps 3 does not divide data.shards 2",
    ),
    "rows that do not divide": (["data.shards=3"], r"data.rows 8 does not divide into 3 shards"),
    "rows longer than the model knows": (
        ["data.row_length=999"],
        r"data.row_length 999 is more than model.decoder.max_length 128",
    ),
    "a group that matches nothing": (
        ["train.groups=[{'name': 'a', 'pattern': 'visoin/.*'}, {'name': 'b', 'pattern': '.*'}]"],
        r"rule 'visoin/\.\*' matches no parameter; near names: vision",
    ),
    "a parameter that no group matches": (
        ["train.groups=[{'name': 'a', 'pattern': 'vision/.*'}]"],
        r"parameters match no rule: abstractor/.*; rules: \['vision/\.\*'\]",
    ),
    "nothing to train": (
        ["train.groups=[{'name': 'a', 'pattern': '.*', 'trainable': False}]"],
        r"every group is frozen",
    ),
    "a tokenizer of another size": (
        ["model.decoder.vocab_size=300"],
        r"the tokenizer has 4096 pieces, model.decoder.vocab_size is 300",
    ),
    "a tokenizer that is not there": (["data.tokenizer=nowhere.model"], r"nowhere.model"),
    "a LoRA target that does not exist": (
        ["model.lora={'targets': ['q', 'k_txt']}"],
        r"unknown LoRA target 'k_txt'; did you mean 'k_text'",
    ),
    "Weights & Biases without its package": (
        ["train.wandb={'project': 'owl'}"],
        r"wandb is not installed; run `pip install wandb`",
    ),
    "a best checkpoint without evaluation": (["train.best={}"], r"train.best .* set heldout or evaluators"),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_refuses_before_a_device_is_touched(folder, tmp_path, refused, name):
    overrides, message = BAD_SETTINGS[name]
    workdir = tmp_path / "run"
    error = refused(f"--config={folder}/small.py", f"--workdir={workdir}", *overrides)
    assert re.search(message, error), error
    assert not workdir.exists(), "nothing is left behind"


def test_refuses_config_files_with_the_nearest_name(folder, tmp_path, refused):
    workdir = f"--workdir={tmp_path}"
    error = refused(f"--config={folder}/smal.py", workdir)
    assert re.search(r"smal.py does not exist; there is .*small.py", error)
    assert re.search(
        r"is a folder, expected FILE\.py; there is .*\.py", refused(f"--config={folder}", workdir)
    )
    assert "defines no get_config()" in refused(f"--config={folder}/empty.py", workdir)
    assert "takes no argument, found 'size=1'" in refused(f"--config={folder}/small.py:size=1", workdir)
    error = refused(f"--config={folder}/takes.py:imagesize=336", workdir)
    assert "unknown config argument 'imagesize'; did you mean 'image_size'" in error
    error = refused(f"--config={folder}/takes.py:image_size=wide", workdir)
    assert "config argument image_size: expected a whole number, found 'wide'" in error
    error = refused(f"--config={folder}/small.py", workdir, "train.total_steps=1,000")
    assert "train.total_steps: expected a whole number, at least 1, found '1,000'" in error
    assert re.search(r"typo.py, line 3: KeyError: 'trian'", refused(f"--config={folder}/typo.py", workdir))


def test_refuses_checkpoints_to_start_from(folder, tmp_path, start, refused):
    def start_from(path: Path, *overrides: str) -> str:
        config = f"--config={folder}/small.py"
        return refused(config, f"--workdir={tmp_path}/run", f"train.start_from={path}", *overrides)

    assert "nowhere is not a directory" in start_from(tmp_path / "nowhere")
    assert "has neither params/" in start_from(folder)

    half = shutil.copytree(start, tmp_path / "half")
    (half / "params" / "_METADATA").unlink()
    assert "half-written or damaged" in start_from(half)

    error = start_from(start, "model.decoder.mlp_dim=64")
    assert re.search(
        r"does not fit the model: .*decoder/layers/mlp/down/kernel is \[2, 48, 32\], expected", error
    )
    error = start_from(start, "model.vision.image_size=56")
    assert re.search(r"another image size .* run `owl2 convert resize --checkpoint", error)
    error = start_from(start, "model.decoder.adaptive=all")
    assert re.search(r"another modality-adaptive module .*q_image.* --output DIR --adaptive=NAME`", error)

    other = shutil.copytree(start, tmp_path / "other")
    with (other / "tokenizer.model").open("ab") as file:
        file.write(b" ")
    assert "was trained with another tokenizer" in start_from(other)
    assert not (tmp_path / "run").exists()


def test_refuses_a_folder_for_saves_of_a_host_that_cannot_be_made(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    local = f"train.local_checkpoints={{'folder': '{tmp_path}/file/saves'}}"
    assert main(["train", f"--config={folder / 'small.py'}", f"--workdir={tmp_path / 'run'}", local]) == 2
    assert "train.local_checkpoints.folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_refuses_a_run_directory_of_another_config(folder, tmp_path, refused):
    run = tmp_path / "run"
    run.mkdir()
    values = runs.run_config().to_dict()
    (run / "config.json").write_text(json.dumps(values))
    arguments = (f"--config={folder}/small.py", f"--workdir={run}")
    error = refused(*arguments, "train.seed=1", "model.decoder.width=64", "train.log_every_steps=7")
    assert re.search(r"another config \(model.decoder.width: 32 -> 64; train.seed: 0 -> 1\)", error)
    assert re.search(r"Either give the old settings to resume it, or another --workdir", error)
    assert "log_every_steps" not in error, "what does not change the result may change"

    (run / "config.json").write_text("{")
    assert "config.json is not valid JSON" in refused(*arguments)
    (tmp_path / "file").touch()
    assert "is a file" in refused(arguments[0], f"--workdir={tmp_path}/file")


def test_refuses_sizes_and_data_that_need_the_devices(folder, tmp_path, refused):
    arguments = (f"--config={folder}/small.py", f"--workdir={tmp_path}/run")
    error = refused(*arguments, "mesh={'data': 3}", devices=True)
    assert re.search(r"data 3 .* = 3, but there are 8 devices; change an axis", error)
    error = refused(*arguments, "data.datasets.facts.kind=embeded", devices=True)
    assert "unknown source kind 'embeded'; did you mean 'embedded'" in error
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_and_data_that_changes_stop_a_run_that_can_go_on(tmp_path, monkeypatch, capsys):
    """The third reading does not fit; then the data is another; then it is accepted."""
    names = write_images(tmp_path, 3)
    records = [dialogue(f"r{n}", f"An answer {n}.", [names[n % 3]]) for n in range(40)]
    data = write_set(tmp_path, "mine", records)
    datasets = {"mine": {"kind": "llava", "options": {"path": str(data)}}}
    values = {**runs.VALUES, "data": {**runs.VALUES["data"], "datasets": datasets}}
    (tmp_path / "mine.py").write_text(f"def get_config():\n    return {values!r}\n")
    run, write = tmp_path / "run", AppendFile.write
    arguments = ["train", f"--config={tmp_path}/mine.py", f"--workdir={run}", "train.log_every_steps=1",
                 "train.save_every_steps=2"]  # fmt: skip
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: one)

    class Full:
        """A file on a disk that has room for `left` more bytes."""

        def __init__(self, file, left: int) -> None:
            self.file, self.left = file, left
            self.fileno, self.truncate = file.fileno, file.truncate

        def write(self, part: memoryview) -> int:
            if not self.left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = self.file.write(part[: self.left])
            self.left -= written
            return written

    def full(file: AppendFile, record: bytes | str) -> None:
        raw = file._file
        if file.path.name == "metrics.jsonl" and json.loads(record)["step"] == 3:
            file._file = Full(raw, len(record) // 2)
        try:
            write(file, record)
        finally:
            file._file = raw

    with monkeypatch.context() as patched:
        patched.setattr(AppendFile, "write", full)
        assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said == f"error: no space left while writing {run}/metrics.jsonl; make room and run it again\n"
    assert [line["step"] for line in read_metrics(run)] == [1, 2]
    assert (run / "metrics.jsonl").read_bytes().endswith(b"}\n"), "nothing of the third"

    records[3] = dialogue("r3", "An answer of mine.", names[:1])
    write_set(tmp_path, "mine", records)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"data.datasets.mine is not what {run} was trained on so far: {data} had " in said
    assert "go on with the new ones by --accept-changed-data" in said
    assert main([*arguments, "--accept-changed-data"]) == 0
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 4]
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{run} is complete: step 4 is saved\n"


def test_sigterm_saves_and_exits_with_0_and_the_same_command_finishes(folder, tmp_path):
    run = tmp_path / "run"
    arguments = command(
        f"--config={folder}/small.py", f"--workdir={run}",
        "train.total_steps=300", "train.log_every_steps=1", "train.save_every_steps=300",
    )  # fmt: skip
    # On a terminal there is a bar.
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment(TERM="xterm", COLUMNS="140"),
        stdout=other,
        stderr=subprocess.PIPE,
    )
    os.close(other)
    shown = b""
    while len(read_metrics(run)) < 3:
        shown += os.read(terminal, 4096)
        assert process.poll() is None, shown
    process.send_signal(signal.SIGTERM)
    shown += read_all(terminal)
    assert process.wait(60) == 0
    assert process.stderr.read() == b""
    assert "━" in shown.decode()
    assert b"tokens/s" in shown
    step = int(re.search(rb"stopped after step (\d+), which is saved", shown)[1])
    assert [path.name for path in (run / "checkpoints").iterdir()] == [str(step)]

    # The last steps run without a terminal: plain lines, and nothing of the libraries below.
    config = json.loads((run / "config.json").read_text())
    config["train"]["total_steps"] = step + 2
    (run / "config.json").write_text(json.dumps(config))
    arguments = [f"train.total_steps={step + 2}" if "total_steps" in part else part for part in arguments]
    done = subprocess.run(arguments, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()[-2:]
    assert re.fullmatch(
        rf"small {step + 1}/{step + 2}  loss \d+\.\d{{4}}  accuracy 0\.\d+  [\d,]+ tokens/s  .* left",
        lines[0],
    )
    assert lines[1].startswith(f"small {step + 2}/{step + 2}  loss")
    assert "\x1b" not in done.stdout
    assert [line["step"] for line in read_metrics(run)] == list(range(1, step + 3))

    start = json.loads((run / "run.json").read_text())["starts"]
    assert len(start) == 2
    assert {"time", "command", "config_sha256", "data_sha256", "devices", "versions", "git"} <= set(start[0])
    assert start[0]["data_sha256"] == start[1]["data_sha256"]


def read_all(terminal: int) -> bytes:
    """What is still written to a terminal until its other end closes."""
    parts = []
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux says so instead of end of file
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def test_configs_of_the_quickstart_are_whole():
    for name in ("warmup", "stage1", "stage2"):
        values = read_config_file(str(ROOT / "configs" / "tiny" / f"{name}.py"))
        assert runs.RunConfig.from_dict(values).train.num_steps > 0


def test_warnings_go_once_to_what_is_the_error_stream_then(capsys):
    for _ in range(2):
        set_up_logs()
    logging.getLogger("owl2_jax.training").warning("%d rows left", 3)
    assert capsys.readouterr().err == "warning: 3 rows left\n"
