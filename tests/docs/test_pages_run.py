"""Every command of a page is run, in the page's order, in a folder of its own, on a tiny model.

What a page takes for granted lies there: the quickstart's runs, a released checkpoint,
images, a file of records, of prompts. Blocks with a title become that file. A block under
`<!-- parsed: REASON -->` is not run; `test_examples.py` parses it as all others.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict
from PIL import Image

from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.cli.main import main, parser_of
from owl2_jax.config import RunConfig, load_config, read_config_file
from owl2_jax.data.pipeline import load_tokenizer
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.sweeps import processes
from owl2_jax.testing import tiny
from tests.docs.blocks import PAGES, ROOT, TEXTS, Block, blocks_of
from tests.docs.blocks import lines_of as commands_of
from tests.sweeps import fake_owl2
from tests.training import runs

# Why a block may be left unrun.
REASONS = {
    "a pod", "a bucket", "a cluster", "a TPU compiler", "published files", "a server", "minutes",
    "several processes", "an install", "PyTorch",
}  # fmt: skip
MODEL = tiny.tiny_config(**{"decoder.vocab_size": 4096, "decoder.num_kv_heads": 4, "decoder.max_length": 256})
# What is done with the words of a page besides: full sizes become tiny ones, runs and answers short.
SHORT_RUN = (
    "train.total_steps=2", "train.log_every_steps=1", "train.schedule.warmup_steps=1",
    "mesh={'data': 1}", "data.rows=2", "data.row_length=192", "data.shards=1",
)  # fmt: skip
ADDED = {
    "chat": ["--max-new-tokens=3"],
    "generate": ["--max-new-tokens=3", "--sequences=1"],
    "look": ["--max-new-tokens=3"],
    "evaluate": ["--limit=2", "--sequences=1"],
    "data check": ["--records=8"],
    "sweep": [f"train.total_steps={fake_owl2.STEPS}"],
}
RECORD = {
    "id": "1",
    "image": "red.png",
    "conversations": [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "Red."}],
}
PROMPT = {"id": "1", "messages": [{"role": "user", "content": "<|image|>What?"}], "images": ["image.png"]}
NOTHING_TO_DO = {"source", "pip"}  # shell words that change nothing here
STAY_ON = {"fit", "serve", "bench"}  # ask the TPU's compiler, stay on, or measure for minutes; parsed alone


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A trained model in our format and the released one's, and images; never written to."""
    folder = tmp_path_factory.mktemp("made")
    params = jax.device_get(tiny.tiny_params(MODEL))
    tokenizer = load_tokenizer(runs.run_config().data).bytes
    write_model_directory(folder / "model", model_json(MODEL.to_dict()), params, tokenizer)
    back = ["convert", "to-torch", f"--checkpoint={folder / 'model'}", f"--output={folder / 'torch'}"]
    assert main(back) == 0
    (folder / "images").mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (28, 28), colour).save(folder / "images" / f"{colour}.png")
    return folder


@pytest.fixture
def world(made: Path, path: Path, tmp_path: Path, monkeypatch) -> Path:
    """An empty folder but for what the page takes for granted, which is nothing that its commands write."""
    shell = [block.text for block in blocks_of(path) if block.language == "bash" and not block.why]
    written = set(re.findall(r"--output[= ](\S+)", "\n".join(shell)))
    links = {
        "configs": ROOT / "configs", "launch": ROOT / "launch", "images": made / "images",
        "image.png": made / "images/red.png", "cat.png": made / "images/red.png", "DIR": made / "model",
        "checkpoints/mplug_owl2": made / "model", "runs/quickstart/stage1": made / "model",
        "runs/quickstart/stage2": made / "model", "runs/pretrain": made / "model",
        "runs/sweeps/start": made / "model",
        "runs/without": made / "model", "HF_DIR": made / "torch", "MPLUG_OWL2_HF_DIR": made / "torch",
    }  # fmt: skip
    for name, target in links.items():
        if name in written:
            continue
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(target)
    coco = tmp_path / "mine/coco/val2014/COCO_val2014_000000000001.jpg"
    coco.parent.mkdir(parents=True)
    coco.symlink_to(made / "images/red.png")
    (tmp_path / "my.json").write_text(json.dumps([RECORD] * 4))
    (tmp_path / "prompts.jsonl").write_text(json.dumps(PROMPT) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "PROGRAM", (sys.executable, fake_owl2.__file__))
    on_one = lambda spec, devices=None: make_mesh(spec, devices or jax.devices()[:1])
    monkeypatch.setattr("owl2_jax.parallel.mesh.make_mesh", on_one)
    return tmp_path


def small(location: str, overrides: Sequence[str]) -> list[str]:
    """Fields that make a config of any size a run of two short steps."""
    values = read_config_file(location)
    model: dict[str, Any] = MODEL.to_dict()
    lora = dict(values.get("model", {})).get("lora")
    if lora:
        model["lora"] = {**dict(lora), "rank": 2}
    images = 0 if values.get("data", {}).get("images_per_row") == 0 else 4  # both 0 of text alone
    rest = ["train.total_examples=None", "train.accumulate_steps=1", f"data.images={images}"]
    return [f"model={model!r}", *SHORT_RUN, *rest, *overrides]


TRAINED: dict[str, Path] = {}  # runs of this file by their config, which train once


def train(arguments: list[str]) -> int:
    """As `owl2 train`; of a run that another page has trained there is a copy, which is complete."""
    args = parser_of("train").parse_intermixed_args(arguments[1:])
    key = json.dumps(load_config(args.config, args.overrides).to_dict(), sort_keys=True)
    if key in TRAINED and not Path(args.workdir).exists():
        shutil.copytree(TRAINED[key], args.workdir)
    code = main(arguments)
    TRAINED[key] = Path(args.workdir).absolute()
    return code


def arguments_of(words: list[str]) -> list[str]:
    """The words of an `owl2` command with what makes it short."""
    name = " ".join(words[:2]) if words[0] == "data" else words[0]
    config = next((word.partition("=")[2] for word in words if word.startswith("--config=")), "")
    if name == "data check":
        config = words[2]
    shorter = small(config, ()) if config and name in ("train", "data check") else []
    return [*words, *ADDED.get(name, []), *shorter]


def run_block(block: Block, folder: Path, monkeypatch) -> None:
    """Runs or writes one block. Fails with the command that failed."""
    if block.title:
        (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
        (folder / block.title).write_text(block.text)
    elif block.language == "bash" and not block.why:
        for words in commands_of(block.text):
            if words[0] in NOTHING_TO_DO:
                continue
            assert words[0] == "owl2", f"{block.page}: {words[0]} is run by no test; mark the block"
            if words[1] in STAY_ON:
                continue
            monkeypatch.setattr(sys, "stdin", io.StringIO("What is this?\n"))
            run = train if words[1] == "train" else main
            assert run(arguments_of(words[1:])) == 0, f"{block.page}: {words}"
    elif block.language == "python" and not block.why:
        run_python(block)


def run_python(block: Block) -> None:
    """Runs a block of Python; what it sets in `config` must make a config."""
    names: dict[str, Any] = {"config": ConfigDict(runs.VALUES)}
    exec(compile(block.text, block.page, "exec"), names)
    RunConfig.from_dict(names["config"].to_dict())


PATHS = [path for path in TEXTS if any(one.language in ("bash", "python") for one in blocks_of(path))]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_page_runs(path, world, monkeypatch, capsys):
    for block in blocks_of(path):
        run_block(block, world, monkeypatch)


def test_blocks_that_are_not_run_say_why():
    given = {block.why for path in TEXTS for block in blocks_of(path) if block.why}
    assert given - REASONS == set()


@pytest.mark.parametrize("path", [ROOT / "README.md"], ids=["python"])
def test_the_example_of_the_python_api_runs(path, world, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "docs" / "generated")
    from python_pages import EXAMPLE

    exec(EXAMPLE.removeprefix("```python\n").removesuffix("```"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 3


def undescribed(*names: str) -> set[str]:
    """Those of the names that `reference/files.md` does not have."""
    text = (PAGES / "reference" / "files.md").read_text(encoding="utf-8")
    return {name for name in names if f"`{name}" not in text}


def lines_in(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("path", [PAGES / "reference" / "files.md"], ids=["files"])
def test_every_file_that_commands_leave_and_every_key_in_it_is_described(path, world):
    (world / "my.json").write_text(json.dumps([RECORD, {**RECORD, "image": "gone.png"}]))
    config = "configs/finetune_7b.py:data=my.json,image_folder=images,examples=40"
    command = ["train", f"--config={config}", "--workdir=run", "data.max_rejected_share=0.9"]
    assert train(arguments_of(command)) == 0
    run = {path.name for path in (world / "run").iterdir()}
    assert {"config.json", "model.json", "run.json", "metrics.jsonl", "rejected.jsonl", "checkpoints"} <= run
    items = [path.name for path in (world / "run" / "checkpoints" / "2").iterdir() if path.is_dir()]
    starts = json.loads((world / "run" / "run.json").read_text()).keys()
    assert undescribed(*run, *items, *starts) == set()
    assert undescribed(*json.loads((world / "run" / "model.json").read_text())) == set()
    assert undescribed(*lines_in(world / "run" / "rejected.jsonl")[0]) == set()

    assert main(arguments_of(["evaluate", "--checkpoint=DIR", "--benchmarks=facts", "--output=scores"])) == 0
    scores = world / "scores"
    of_one = {f"NAME/{path.name}".replace("-0", "-N") for path in (scores / "facts").iterdir()}
    assert undescribed(*of_one, *(path.name for path in scores.iterdir() if path.is_file())) == set()
    assert undescribed(*lines_in(scores / "facts" / "results.jsonl")[0]) == set()
    assert undescribed(*lines_in(scores / "facts" / "times.jsonl")[0]) == set()
    entry = json.loads((scores / "scores.json").read_text())["scores"][0]
    assert undescribed(*entry) == set()

    generate = ["generate", "--checkpoint=DIR", "--input=prompts.jsonl", "--output=answers.jsonl"]
    assert main(arguments_of(generate)) == 0
    assert undescribed(*lines_in(world / "answers.jsonl")[0]) == set()
    assert (world / "answers.jsonl.settings.json").is_file()
