"""The folder in which a page's commands run, on tiny models, and what is done to make them short.

What a page takes for granted lies there: the quickstart's runs, released checkpoints,
images, a file of records, of prompts, published benchmarks.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.cli.main import main, parser_of
from owl2_jax.config import load_config, read_config_file
from owl2_jax.core.paths import in_bucket
from owl2_jax.data.pipeline import load_tokenizer
from owl2_jax.evals.metrics.mme import TASK_NAMES
from owl2_jax.evals.yes_no import MME
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.owl2 import abstract_params
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.perf import fitting, searching, versions
from owl2_jax.perf.forecast import Forecast
from owl2_jax.perf.tpu_compile import Fit, Memory, Roofline
from owl2_jax.perf.traffic import Traffic
from owl2_jax.sweeps import plots, processes
from owl2_jax.testing import tiny
from tests.convert.starting_points import LlamaSizes, write_clip, write_llama, write_qwen
from tests.data.vocabularies import small_ranks
from tests.docs.blocks import ROOT
from tests.fuzz.benchmark_files import write_originals
from tests.sweeps import fake_owl2
from tests.sweeps.conftest import PRETENDING_WORKER
from tests.training import runs

LAYERS = {"vision.num_layers": 1, "decoder.num_layers": 1}
MODEL = tiny.tiny_config(
    **{"decoder.vocab_size": 4096, "decoder.num_kv_heads": 4, "decoder.max_length": 256, **LAYERS}
)
OWL2_1 = tiny.tiny_config(**tiny.OWL2_1, **{"decoder.vocab_size": 520, "decoder.max_length": 512, **LAYERS})
# What is done with the words of a page besides: full sizes become tiny ones, runs and answers short.
# All train with one set of groups and one optimiser, so that most of them run the same compiled step;
# `tests/test_configs.py` has those of the recipes.
SHORT_RUN = (
    "train.total_steps=2", "train.log_every_steps=1", "mesh={'data': 1}", "data.rows=2", "data.shards=1",
    "data.max_targets=128", "train.schedule={'peak_lr': 1e-3, 'warmup_steps': 1}", "train.optimizer={}",
    "train.loss_chunk=64", "train.total_examples=None",
    "train.examples_per_step=None", "train.accumulate_steps=1", "train.save_every_steps=500",
    "train.keep_checkpoints=2",
)  # fmt: skip
ADDED = {
    "chat": ["--max-new-tokens=3"],
    "generate": ["--max-new-tokens=3", "--sequences=1"],
    "look": ["--max-new-tokens=3"],
    "evaluate": ["--limit=2", "--sequences=1"],
    "data check": ["--records=8"],
    "bench data": ["--images=8", "--batches=2", "--workers=0"],
    "bench train": ["--calls=1", "--mesh=data=1"],
    "bench decode": ["--calls=1", "--mesh=data=1", "--length=24", f"model={MODEL.to_dict()!r}"],
    "sweep": [f"train.total_steps={fake_owl2.STEPS}"],
    "convert init": ["--abstractor-layers=1"],
}
TRAINS = ("train", "data check", "bench data", "bench train")  # which take the config of a run
RECORD = {
    "id": "1",
    "image": "red.png",
    "conversations": [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "Red."}],
}
MINE = {
    "mine": {"kind": "llava", "options": {"path": "my.json", "image_folder": "images", "file_tag": "<image>"}}
}
PROMPT = {"id": "1", "messages": [{"role": "user", "content": "<|image|>What?"}], "images": ["image.png"]}


def make(folder: Path) -> None:
    """Models in our format and the released one's, what they start from, images and benchmarks."""
    tokenizer = load_tokenizer(runs.run_config().data).bytes
    params = random_params(MODEL)
    write_model_directory(folder / "stage2", model_json(MODEL.to_dict()), params, tokenizer)
    without = MODEL.replace(**{"decoder.adaptive": "none"})
    write_model_directory(
        folder / "without", model_json(without.to_dict()), random_params(without), tokenizer
    )
    params = random_params(OWL2_1)
    settings = model_json(OWL2_1.to_dict(), tokenizer="qwen.tiktoken")
    write_model_directory(folder / "model_2_1", settings, params, small_ranks())
    for name, back in (("stage2", "torch"), ("model_2_1", "torch_2_1")):
        output = folder / back
        assert main(["convert", "to-torch", f"--checkpoint={folder / name}", f"--output={output}"]) == 0
    write_llama(folder / "llama", LlamaSizes(), tiny.toy_tokenizer().bytes)
    write_qwen(folder / "qwen", LlamaSizes(vocab_size=520), small_ranks())
    write_clip(folder / "clip")
    (folder / "images").mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (28, 28), colour).save(folder / "images" / f"{colour}.png")
    _benchmarks(folder / "published", folder / "images/red.png")
    with np.load(ROOT / "tests/golden/B/golden.npz") as arrays:
        kept = ("vision/pixel_values", "vision/hidden_states", "vision/embeddings")
        np.savez(folder / "original.npz", **{name: arrays[name] for name in kept})


def random_params(config: Owl2Config) -> Any:
    """Parameters of a model for which nothing is compiled."""
    rng = np.random.default_rng(0)
    values = lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(leaf.dtype)
    return jax.tree.map(values, abstract_params(config))


def _benchmarks(root: Path, image: Path) -> None:
    """The files of three benchmarks, in their authors' formats."""
    questions = [*write_originals(root, "vqav2_val"), *write_originals(root, "textvqa_val")]
    tasks = root / "mme/MME_Benchmark_release_version/eval_tool/Your_Results"
    tasks.mkdir(parents=True)
    for task in TASK_NAMES:
        (tasks / f"{task}.txt").write_text(f"{task}.jpg\tIs it?\tYes\n{task}.jpg\tIs it not?\tNo\n")
    for path in {image for question in [*questions, *MME().questions(root)] for image in question.images}:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(image)


def furnish(folder: Path, made: Path, written: set[str]) -> None:
    """Puts links into a page's folder, but for what its commands write."""
    links = {
        "configs": ROOT / "configs", "launch": ROOT / "launch", "setup.py": ROOT / "setup.py",
        "notebooks": ROOT / "notebooks", "images": made / "images", "published": made / "published",
        "image.png": made / "images/red.png", "cat.png": made / "images/red.png", "DIR": made / "stage2",
        "checkpoints/mplug_owl2": made / "stage2", "runs/quickstart/stage1": made / "stage2",
        "checkpoints/pretrained_448": made / "stage2", "checkpoints/original": ROOT / "tests/golden/B/hf",
        "runs/quickstart/stage2": made / "stage2", "runs/quickstart/warmup": made / "stage2",
        "runs/scenes/small/stage1": made / "without", "runs/scenes/small/warmup": made / "stage2",
        "runs/pretrain": made / "stage2",
        "runs/sweeps/start": made / "stage2", "runs/without": made / "without", "HF_DIR": made / "torch",
        "MPLUG_OWL2_HF_DIR": made / "torch", "MPLUG_OWL2_1_HF_DIR": made / "torch_2_1",
        "LLAMA_2_7B": made / "llama", "QWEN_7B": made / "qwen", "CLIP_VIT_L_14": made / "clip",
        "original.npz": made / "original.npz",
    }  # fmt: skip
    for name, target in links.items():
        if name in written:
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)
    coco = folder / "mine/coco/val2014/COCO_val2014_000000000001.jpg"
    coco.parent.mkdir(parents=True)
    coco.symlink_to(made / "images/red.png")
    (folder / "my.json").write_text(json.dumps([RECORD] * 4))
    (folder / "prompts.jsonl").write_text(json.dumps(PROMPT) + "\n")


def put_a_model(model: Path, bucket: Path) -> None:
    """Copies a model to where the pages have a run in a bucket."""
    for file in (file for file in model.rglob("*") if file.is_file()):
        (bucket / "runs/instruct" / file.relative_to(model)).write_bytes(file.read_bytes())


def patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps start a fake, runs use one device, and `owl2 fit` gets its answer without a compiler."""
    monkeypatch.setattr(processes, "PROGRAM", (sys.executable, fake_owl2.__file__))
    monkeypatch.setattr(processes, "WORKER", PRETENDING_WORKER)
    monkeypatch.setattr(plots, "_FORMATS", ("svg",))  # `tests/sweeps/test_collect.py` has both
    on_one = lambda spec, devices=None: make_mesh(spec, devices or jax.devices()[:1])
    for module in ("owl2_jax.parallel.mesh", "owl2_jax.perf.benches"):
        monkeypatch.setattr(f"{module}.make_mesh", on_one)
    monkeypatch.setattr(versions, "check_compiler", lambda: versions.Versions("0.10.2", "0.10.2", "0.0.42.1"))
    for module in (fitting, searching):
        monkeypatch.setattr(module, "topology_devices", lambda topology: jax.devices()[: topology.count])
    monkeypatch.setattr(fitting, "measure", _measure)


def _measure(plan: fitting.Plan) -> fitting.Result:
    """What `owl2 fit` would find: that all of it fits, in a second."""
    memory = Memory(plan.topology.chip.memory, 1.0, 0.0, 0.0, 1.0, {})
    line, ahead = Roofline(1.0, 0.0, 0.0, 0.0, 1.0, 1.0), Forecast(1.0, ())
    workload = SimpleNamespace(flops={}, tokens=1)
    return fitting.Result(plan, workload, Fit(plan.topology, memory, line, Traffic(), 0.0, ahead))


def small(location: str, overrides: Sequence[str] = ()) -> list[str]:
    """Fields that make a config of any size a run of two short steps."""
    values = read_config_file(location)
    is_2_1 = "model=owl2_1" in location
    model: dict[str, Any] = (OWL2_1 if is_2_1 else MODEL).to_dict()
    given, data = dict(values.get("model", {})), values.get("data", {})
    groups = [{"name": "all", "pattern": ".*"}]
    if given.get("lora"):
        model["lora"] = {**dict(given["lora"]), "rank": 2}
        groups = [{"name": "adapters", "pattern": ".*/lora_.*"}, {**groups[0], "trainable": False}]
    model["decoder"] |= {
        name: value for name, value in given.get("decoder", {}).items() if name == "adaptive"
    }
    images, rest = 4, []
    if location.startswith(
        "configs/"
    ):  # one set for what a reader has fetched, and for what takes long to draw
        rest.append(f"data.datasets={MINE!r}")
    elif data.get("images_per_row") == 0:
        images = 0  # both 0 of text alone
    rest += [f"data.images={images}", f"data.images_per_row={min(images, 2)}"]
    rest += [f"train.groups={groups!r}", f"data.row_length={256 if is_2_1 else 192}"]
    return [f"model={model!r}", *SHORT_RUN, *rest, *overrides]


def arguments_of(words: list[str]) -> list[str]:
    """The words of an `owl2` command with what makes it short."""
    name = " ".join(words[:2]) if words[0] in ("data", "bench", "convert") else words[0]
    config = next((word.partition("=")[2] for word in words if word.startswith("--config=")), "")
    if name in ("data check", "bench data"):
        config = words[2]
    shorter = small(config) if config and name in TRAINS else []
    words = [re.sub(r"profile_steps=.*", "profile_steps=(2, 2)", word) for word in words]
    if name == "fit":
        words = [re.sub(r"^--topology=.*", "--topology=v5e:2x4", word) for word in words]
    if name == "sweep" and words[1] == "configs/sweeps/claims.py" and "--list" not in words:  # of 70 runs
        words = [*words, "--only=base"]
    if name == "look" and any(word.partition("=")[0] == "--benchmark" for word in words):
        return words  # which has answers of one token
    return [*words, *ADDED.get(name, []), *shorter]


TRAINED: dict[str, Path] = {}  # runs of this process by their config and data, which train once


def run(words: list[str]) -> int:
    """Runs `owl2 WORDS`, made short; of a run that another page has trained there is a copy."""
    arguments = arguments_of(words)
    if words[0] != "train":
        return main(arguments)
    args = parser_of("train").parse_intermixed_args(arguments[1:])
    if in_bucket(args.workdir):
        return main(arguments)
    key = json.dumps(load_config(args.config, args.overrides).to_dict(), sort_keys=True)
    key += Path("my.json").read_text(encoding="utf-8")  # which a page may write
    if key in TRAINED and not Path(args.workdir).exists():
        shutil.copytree(TRAINED[key], args.workdir)
    code = main(arguments)
    TRAINED[key] = Path(args.workdir).absolute()
    return code
