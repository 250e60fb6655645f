from __future__ import annotations

import itertools
import json

import pytest
from PIL import Image

from owl2_jax.core.buckets import upload_folder
from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals import report
from owl2_jax.evals.registry import BENCHMARKS


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def training_run(folder, started, rows):
    write_lines(folder / "metrics.jsonl", rows)
    (folder / "run.json").write_text(json.dumps({"starts": [{"time": started}]}), encoding="utf-8")


@pytest.fixture
def run(tmp_path):
    """The folder of a quickstart with two training runs and eighteen answers."""
    sets = {"loss/a": 3.0, "loss/b": 0.5, "loss/with_images": 0.5, "loss/without_images": 3.0}
    training_run(tmp_path / "a_later", "2026-01-02T00:00:00+0000", [
        {"step": 10, "loss": 2.0, **sets}, {"step": 10, "held_out/loss": 1.0},
        {"step": 20, "loss": 1.0, **sets},
    ])  # fmt: skip
    training_run(tmp_path / "b_first", "2026-01-01T00:00:00+0000", [{"step": 10, "loss": 4.0, "loss/a": 4.0}])
    questions = list(itertools.islice(BENCHMARKS["easy_vqa"]().questions(tmp_path), 18))
    write_lines(tmp_path / "easy_vqa" / "results.jsonl", [
        {"id": q.id, "prediction": "circle", "answer": "triangle" if number % 2 else "circle"}
        for number, q in enumerate(questions)
    ])  # fmt: skip
    score = {"benchmark": "easy_vqa", "title": "easy-VQA", "value": 50.0, "baselines": {"majority": 43.8}}
    (tmp_path / "scores.json").write_text(json.dumps({"scores": [score]}), encoding="utf-8")
    return tmp_path


def test_losses_are_of_each_set_and_runs_in_their_order(run):
    assert report.read_losses(run) == [
        ("b_first", {"loss": [(10, 4.0)]}),
        ("a_later", {"a": [(10, 3.0), (20, 3.0)], "b": [(10, 0.5), (20, 0.5)]}),
    ]


def test_examples_are_the_same_each_time_and_know_what_is_right(run):
    shown = report.pick_examples(run, ["easy_vqa"], 12)
    assert shown == report.pick_examples(run, ["easy_vqa"], 12)
    assert len({one.question + str(one.image) for one in shown}) == 12
    assert {one.right for one in shown} == {True, False}
    assert all(one.right == (one.truth == "circle") for one in shown)


def test_the_report_is_one_large_image(run):
    report.write_report(run, run / "report.png")
    with Image.open(run / "report.png") as image:
        assert min(image.size) > 1200
        assert len(image.convert("RGB").getcolors(1 << 24)) > 100


@pytest.mark.parametrize(
    ("missing", "said"),
    [("scores.json", "scores.json is missing"), ("a_later/run.json", "expected the record of a training run"),
     ("easy_vqa/results.jsonl", "no answered question")],
)  # fmt: skip
def test_what_is_missing_is_named(run, missing, said):
    (run / missing).unlink()
    with pytest.raises(Owl2Error, match=said):
        report.write_report(run, run / "report.png")


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(Owl2Error, match="no metrics"):
        report.write_report(tmp_path, tmp_path / "report.png")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("a_later/metrics.jsonl", '{"step": 1}\n{"st', r"metrics\.jsonl, line 2, is not valid JSON"),
        ("a_later/metrics.jsonl", "[1]\n", r"metrics\.jsonl, line 1 is no reading"),
        ("a_later/run.json", '{"starts": []}', r"run\.json does not tell when the run began"),
        ("a_later/run.json", "{", r"run\.json is not valid JSON"),
        ("scores.json", '{"scores": 3}', r"scores\.json holds no list of scores"),
        ("easy_vqa/results.jsonl", '{"prediction": "x"}\n', r"results\.jsonl has a line that is no answer"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(run, file, text, said):
    (run / file).write_text(text, encoding="utf-8")
    with pytest.raises(Owl2Error, match=said):
        report.write_report(run, run / "report.png")


def test_marks_and_separators_in_files_change_nothing(run):
    right = report.read_losses(run), report.pick_examples(run, ["easy_vqa"], 6)
    for path in run.rglob("*.jsonl"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    lines = (run / "easy_vqa/results.jsonl").read_text(encoding="utf-8")
    (run / "easy_vqa/results.jsonl").write_text(
        lines.replace("{", '{"prompt": "a\u2028b", '), encoding="utf-8"
    )
    assert (report.read_losses(run), report.pick_examples(run, ["easy_vqa"], 6)) == right


def test_a_loss_that_was_not_finite_is_left_out_of_the_curve(run):
    training_run(
        run / "b_first", "2026-01-01T00:00:00+0000", [{"step": 1, "loss": None}, {"step": 2, "loss": 1.0}]
    )
    assert report.read_losses(run)[0] == ("b_first", {"loss": [(2, 1.0)]})


def test_a_report_of_a_run_in_a_bucket_is_that_of_a_disk(run, bucket):
    upload_folder(run, bucket)
    report.write_report(run, run / "report.png")
    report.write_report(bucket, bucket / "report.png")
    assert (bucket / "report.png").read_bytes() == (run / "report.png").read_bytes()
