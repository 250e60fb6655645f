"""The quickstart's phases, evaluation and report, a few steps of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from owl2_jax.cli.main import main

ROOT = Path(__file__).parents[2]
SHORT = ("data.rows=8", "train.total_steps=3", "train.log_every_steps=1", "train.schedule.warmup_steps=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """All phases for three steps, two benchmarks for a few questions, the report."""
    folder = tmp_path_factory.mktemp("quickstart")
    start: list[str] = []
    for phase in ("warmup", "stage1", "stage2"):
        config = f"--config={ROOT / 'configs' / 'tiny' / phase}.py"
        assert main(["train", config, f"--workdir={folder / phase}", *SHORT, *start]) == 0
        start = [f"train.start_from={folder / phase}"]
    names = "--benchmarks=easy_vqa,drawn_group,facts"
    evaluate = ["evaluate", f"--checkpoint={folder / 'stage2'}", names, f"--output={folder}", "--limit=20"]
    assert main(evaluate) == 0
    assert main(["report", f"--run={folder}"]) == 0
    return folder


def test_scores_name_metric_value_questions_and_seconds(run: Path) -> None:
    scores = json.loads((run / "scores.json").read_text())["scores"]
    assert [score["benchmark"] for score in scores] == ["easy_vqa", "drawn_group", "facts"]
    assert all(score["questions"] == 20 and score["seconds"] > 0 for score in scores)
    assert all(0 <= score["value"] <= 100 and score["metric"] for score in scores)
    assert set(scores[0]["baselines"]) == {"majority", "question only"}


def test_report_is_a_image_of_some_size(run: Path) -> None:
    with Image.open(run / "report.png") as image:
        assert min(image.size) > 800


def test_each_phase_leaves_a_checkpoint_with_config_and_tokenizer(run: Path) -> None:
    for phase in ("warmup", "stage1", "stage2"):
        folder = run / phase
        assert {"config.json", "model.json", "tokenizer.model", "metrics.jsonl"} <= {
            path.name for path in folder.iterdir()
        }
        assert (folder / "checkpoints" / "3").is_dir()


def test_running_a_finished_phase_again_changes_nothing(run: Path) -> None:
    before = (run / "stage1" / "metrics.jsonl").read_bytes()
    config = f"--config={ROOT / 'configs' / 'tiny' / 'stage1.py'}"
    again = ["train", config, f"--workdir={run / 'stage1'}", *SHORT, f"train.start_from={run / 'warmup'}"]
    assert main(again) == 0
    assert (run / "stage1" / "metrics.jsonl").read_bytes() == before


def test_the_report_says_what_is_missing(tmp_path: Path, capsys) -> None:
    assert main(["report", f"--run={tmp_path}"]) == 2
    assert "metrics.jsonl" in capsys.readouterr().err
