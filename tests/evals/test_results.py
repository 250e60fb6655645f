"""Scores as JSON, Markdown, table and charts."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from rich.console import Console

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals import plots, results
from owl2_jax.evals.results import Score


def score(name="textvqa_val", **changes):
    values = {
        "benchmark": name,
        "title": name.upper(),
        "metric": "vqa_accuracy",
        "value": 50.126,
        "interval": (49.0, 51.25),
        "metrics": {"vqa_accuracy": 50.126, "other": 40.0},
        "questions": 5000,
        "seconds": 12.34,
        "prompt_hash": "abc",
        "published": 54.3,
        "published_note": "58.2 with OCR",
        "baselines": {"chance": 25.0},
    }
    return Score(**{**values, **changes})


def test_scores_json_holds_what_readers_ask_for_and_keeps_other_entries(tmp_path):
    path = tmp_path / "out/scores.json"
    results.write_scores(path, [score("a"), score("b")])
    results.write_scores(path, [score("b", value=60.0)])
    known = results.read_scores(path)
    assert known == {"a": score("a"), "b": score("b", value=60.0)}
    text = path.read_text()
    for key in ('"metric"', '"value"', '"questions"', '"seconds"', '"interval"', '"published"'):
        assert key in text


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"scores": [3]}', '{"scores": [{"benchmark": "a", "interval": null}]}']
)
def test_a_damaged_scores_file_is_refused(tmp_path, text):
    path = tmp_path / "scores.json"
    path.write_text(text)
    with pytest.raises(Owl2Error, match="is not a scores file"):
        results.write_scores(path, [score()])
    assert path.read_text() == text


def test_markdown_puts_published_scores_and_baselines_beside():
    waiting = score("vqav2_testdev", value=None, interval=None, metrics={}, published_note="", baselines={})
    text = results.markdown([score(), waiting])
    lines = text.splitlines()
    assert lines[0] == "| benchmark | metric | score | 95 % | baselines | published | questions | seconds |"
    assert lines[2] == (
        "| TEXTVQA_VAL | vqa_accuracy | 50.13 | 49.0 - 51.2 | chance 25.0 "
        "| 54.3 (58.2 with OCR) | 5000 | 12.3 |"
    )
    assert "not scored here" in lines[3]
    assert lines[-1] == "TEXTVQA_VAL: other 40.00"


def test_terminal_table_shows_every_benchmark():
    console = Console(file=io.StringIO(), width=160)
    console.print(results.table([score("a"), score("b")]))
    shown = console.file.getvalue()
    assert "A" in shown
    assert "50.13" in shown
    assert "chance 25.0" in shown


def test_charts_are_images(tmp_path):
    scores = [score(name, value=value) for name, value in [("a", 20.0), ("b", 50.0), ("c", 90.0)]]
    plots.bar_chart([*scores, score("d", value=None)], tmp_path / "bars.png")
    plots.radar_chart(scores, tmp_path / "radar.png")
    for name in ("bars", "radar"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 300


def test_only_charts_with_something_to_show_are_written(tmp_path):
    waiting, plain = score("w", value=None), score("p", published=None)
    assert plots.write_charts([waiting], tmp_path) == []
    assert [path.name for path in plots.write_charts([plain] * 3, tmp_path)] == ["bars.png"]
    names = [path.name for path in plots.write_charts([score("a"), score("b"), score("c")], tmp_path)]
    assert names == ["bars.png", "radar.png"]


def test_charts_with_nothing_to_show_are_refused(tmp_path):
    with pytest.raises(Owl2Error, match="no score to draw"):
        plots.bar_chart([score(value=None)], tmp_path / "a.png")
    with pytest.raises(Owl2Error, match="needs three benchmarks"):
        plots.radar_chart([score("a"), score("b")], tmp_path / "a.png")


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(Owl2Error, match=r"owl2_jax\[plots\]"):
        plots.bar_chart([score()], tmp_path / "a.png")
