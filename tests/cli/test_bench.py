"""`owl2 bench` at the smallest sizes: that it runs and reports, not how fast."""

import json
import subprocess
import sys

import pytest

from owl2_jax.cli import main
from tests.training import runs

TINY = [
    "--preset=owl2_tiny", "--rows=8", "--length=24", "--calls=1", "--mesh=data=8",
    "model.vision.num_layers=1", "model.abstractor.num_layers=1", "model.decoder.num_layers=1",
    "model.decoder.vocab_size=64", "model.scan_unroll=1",
]  # fmt: skip


@pytest.mark.parametrize("what", ["train", "prefill", "decode"])
def test_workload_is_timed_on_all_devices(what, capsys):
    assert main.main(["bench", what, "--json", *TINY]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["devices"], report["rows"]) == (8, 8)
    seconds = report["seconds_per_token" if what == "decode" else "seconds_per_step"]
    positions = 8 if what == "decode" else 8 * 24
    assert report["tokens_per_second"] == pytest.approx(positions / seconds)
    assert report["model_tflops_per_second"] > 0
    assert report["peak_memory_gb"] > 0
    assert report["mfu"] is None  # a CPU's peak is not in the table


def test_engine_is_compared_with_the_bare_step(capsys):
    tiny = ["--preset=owl2_tiny", "--length=70", "--tokens=8", "--calls=1", *TINY[5:-2]]
    assert main.main(["bench", "engine", "--json", *tiny]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["overhead"] > -1
    assert report["seconds_per_token_bare_step"] > 0
    assert report["cost_together"] == report["seconds_of_all_together"] / report["seconds_of_one_question"]
    assert main.main(["bench", "engine", *tiny, "--length=250"]) == 2
    assert "a prompt of 250 and 33 tokens are more than decoder.max_length 256" in capsys.readouterr().err


def test_attention_table_compares_with_the_written_out_product(capsys):
    assert main.main(["bench", "attention", *TINY]) == 0
    text = capsys.readouterr().out
    assert "kernel xla  forward seconds" in text
    assert "largest relative error 0" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mesh=data=3"], "data 3 * fsdp 1 * tensor 1 = 3, but there are 8 devices"),
        (["--rows=12"], "12 batch rows do not divide over dcn 1 * data 8 * fsdp 1 = 8: 12 = 1 * 8 + 4"),
        (["--calls=0"], "--calls must be at least 1, found 0"),
        (["model.remat=ful"], "unknown model.remat 'ful'; did you mean 'full'?"),
        (["--length=4096"], "row_length 4096 is more than model.decoder.max_length 256"),
    ],
)
def test_bad_input_is_one_line_with_the_arithmetic(arguments, message, capsys):
    assert main.main(["bench", "train", *TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_input_pipeline_is_timed_by_number_of_workers(tmp_path, capsys):
    config = str(runs.write_config(tmp_path / "config.py"))
    small = ["--images=8", "--batches=2", "--workers=0,1", "--step-seconds=0.01", "--json"]
    assert main.main(["bench", "data", config, "data.rows=4", "data.images=4", *small]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["share_of_bare"] > 0
    assert [row["workers"] for row in report["pipeline"]] == [0, 1]
    assert all(0 <= row["data_wait"] < 1 for row in report["pipeline"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batches=0"], "--batches must be at least 1, found 0"),
        (["--workers=3"], "data.workers 3 do not divide a host's 2 shards"),
        (["data.rowz=4"], "unknown field of data 'rowz'; did you mean 'rows'?"),
    ],
)
def test_bad_input_of_the_data_bench_is_one_line(arguments, message, tmp_path, capsys):
    config = str(runs.write_config(tmp_path / "config.py"))
    assert main.main(["bench", "data", config, "--images=0", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_bench_needs_no_data_stack():
    code = (
        "import sys, owl2_jax.perf.benches as _; "
        "print([m for m in ('grain', 'tensorflow_datasets', 'orbax', 'array_record') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
