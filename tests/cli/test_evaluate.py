"""`owl2 evaluate` from the command line, with a tiny model directory."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest
from PIL import Image

from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.cli.main import main
from owl2_jax.evals.journal import CHUNK
from tests.environment import environment


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_config, tiny_params, toy_tokenizer):
    path = tmp_path_factory.mktemp("models") / "tiny"
    write_model_directory(path, model_json(tiny_config.to_dict()), tiny_params, toy_tokenizer.bytes)
    return path


def evaluate(checkpoint, output, *more, benchmarks="drawn_color,drawn_yes_no"):
    return main(
        ["evaluate", f"--checkpoint={checkpoint}", f"--benchmarks={benchmarks}", f"--output={output}",
         "--sequences=8", *more]
    )  # fmt: skip


def test_scores_table_and_charts(checkpoint, tmp_path, capsys):
    assert evaluate(checkpoint, tmp_path, "--limit=10", "--charts") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert [score["benchmark"] for score in scores] == ["drawn_color", "drawn_yes_no"]
    for score in scores:
        assert {"metric", "value", "questions", "seconds", "interval", "baselines"} <= score.keys()
        assert score["questions"] == 10
    assert (tmp_path / "bars.png").stat().st_size > 1000
    assert "| Held-out drawings: colour | accuracy |" in (tmp_path / "scores.md").read_text()
    printed = capsys.readouterr().out
    assert "majority" in printed
    assert "scores.json" in printed


def test_a_second_call_asks_nothing_and_changes_nothing(checkpoint, tmp_path, monkeypatch):
    assert evaluate(checkpoint, tmp_path, "--limit=5", benchmarks="drawn_color") == 0
    before = (tmp_path / "drawn_color/results.jsonl").read_bytes()
    monkeypatch.setattr("owl2_jax.loading.load_model", None)
    assert evaluate(checkpoint, tmp_path, "--limit=5", benchmarks="drawn_color") == 0
    assert (tmp_path / "drawn_color/results.jsonl").read_bytes() == before


def test_another_model_does_not_mix_with_earlier_results(
    checkpoint, tmp_path, tiny_config, tiny_params, toy_tokenizer, capsys
):
    other = tmp_path / "other"
    write_model_directory(other, model_json(tiny_config.to_dict()), tiny_params, toy_tokenizer.bytes)
    out = tmp_path / "out"
    assert evaluate(checkpoint, out, "--limit=5", benchmarks="drawn_color") == 0
    assert evaluate(other, out, "--limit=5", benchmarks="drawn_color") == 2
    assert "holds results of another checkpoint (drawn_color)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmarks=easyvqa"], "unknown benchmark 'easyvqa'; did you mean 'easy_vqa'"),
        (["--benchmarks="], "no benchmark is named"),
        (
            ["--benchmarks=easy_vqa,textvqa_val"],
            "TextVQA_0.5.1_val.json is missing. Get TextVQA_0.5.1_val.json from textvqa.org",
        ),
        (["--benchmarks=easy_vqa", "--limit=0"], "--limit must be at least 1, found 0"),
        (
            ["--benchmarks=easy_vqa", "--max-broken-share=2"],
            "--max-broken-share must be from 0 to 1, found 2",
        ),
        (
            ["--benchmarks=easy_vqa", "--max-broken-share=nan"],
            "--max-broken-share must be finite and from 0 to 1, found nan",
        ),
        (["--benchmarks=mm_vet", "--judgements=x"], "not of the form NAME=FILE"),
        (["--benchmarks=easy_vqa", "--judgements=mm_vet=x"], "unknown benchmark of this run 'mm_vet'"),
        (["--benchmarks=easy_vqa", "--checkpoint=/nowhere"], "checkpoint /nowhere is not a directory"),
    ],
)
def test_bad_arguments_are_one_line_before_anything_runs(checkpoint, tmp_path, capsys, arguments, message):
    start = ["evaluate", f"--checkpoint={checkpoint}", f"--data-root={tmp_path}", f"--output={tmp_path}/out"]
    assert main([*start, *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


def pope_files(root, lines):
    """POPE with the given lines, a good image and a damaged one."""
    images = root / "coco/val2014"
    images.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(images / f"{number}.png")
    (images / "damaged.png").write_bytes(b"no image")
    (root / "pope").mkdir()
    (root / "pope/coco_pope_random.json").write_text("\n".join(lines))


def pope_row(number, image):
    row = {"question_id": number, "image": f"{image}.png", "text": "Is it red?", "label": "yes"}
    return json.dumps(row)


def test_broken_rows_are_left_out_and_told_at_the_end(checkpoint, tmp_path, capsys):
    lines = [pope_row(1, 1), "{cut off", pope_row(2, "missing"), pope_row(3, "damaged"), pope_row(4, 2), "{}"]
    pope_files(tmp_path / "data", lines)
    arguments = [f"--data-root={tmp_path}/data"]
    assert evaluate(checkpoint, tmp_path / "out", *arguments, benchmarks="pope_random,drawn_color") == 0
    first, second = json.loads((tmp_path / "out/scores.json").read_text())["scores"]
    assert (first["questions"], first["broken"], second["broken"]) == (2, 4, 0)
    told = capsys.readouterr().err
    for why in (
        "line 2 is not valid JSON",
        "line 6 has no 'label'",
        "line 3 cannot be asked",
        "line 4 cannot be",
    ):
        assert f"coco_pope_random.json, {why}" in told
        assert why in (tmp_path / "out/scores.md").read_text()
    assert "2 (4 broken)" in (tmp_path / "out/scores.md").read_text()
    rows = [json.loads(line) for line in (tmp_path / "out/pope_random/broken.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == ["line 2", "line 6", "line 3", "line 4"]


def test_a_benchmark_of_broken_rows_alone_is_one_line(checkpoint, tmp_path, capsys):
    pope_files(tmp_path / "data", [pope_row(1, "missing"), "{}"])
    arguments = [f"--data-root={tmp_path}/data"]
    assert evaluate(checkpoint, tmp_path / "out", *arguments, benchmarks="pope_random") == 2
    message = "pope_random: every one of its 2 rows is broken, first "
    assert capsys.readouterr().err.strip().splitlines()[-1].count(message) == 1


def test_the_checkpoint_is_needed(capsys):
    assert main(["evaluate", "--benchmarks=easy_vqa"]) == 2
    assert "--checkpoint DIR is missing" in capsys.readouterr().err


def test_the_list_names_every_benchmark_and_its_files(capsys):
    from owl2_jax.evals.registry import BENCHMARKS

    assert main(["evaluate", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in BENCHMARKS)
    assert "textvqa/TextVQA_0.5.1_val.json  <-  textvqa.org/dataset" in printed


def start_process(checkpoint, output, port, process):
    variables = environment(
        OWL2_COORDINATOR=f"localhost:{port}", OWL2_PROCESSES="2", OWL2_PROCESS=str(process)
    )
    command = [sys.executable, "-m", "owl2_jax.cli.main", *shared_run(checkpoint, output)]
    return subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def shared_run(checkpoint, output):
    """A run of two chunks, so that each of two processes has something to do."""
    return [
        "evaluate",
        f"--checkpoint={checkpoint}",
        "--benchmarks=easy_vqa",
        f"--output={output}",
        f"--limit={CHUNK + 4}",
        "--sequences=32",
    ]


@pytest.mark.slow
def test_two_processes_share_the_questions_and_give_the_same_file(checkpoint, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = [start_process(checkpoint, tmp_path / "2", port, number) for number in range(2)]
    assert main(shared_run(checkpoint, tmp_path / "1")) == 0
    for process in processes:
        printed = process.communicate(timeout=240)[0]
        assert process.returncode == 0, printed
    journals = sorted(path.name for path in (tmp_path / "2/easy_vqa").glob("journal-*"))
    assert journals == ["journal-0.jsonl", "journal-1.jsonl"]
    files = [tmp_path / part / "easy_vqa/results.jsonl" for part in ("1", "2")]
    assert files[0].read_bytes() == files[1].read_bytes()
