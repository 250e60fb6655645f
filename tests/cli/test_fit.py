"""`owl2 fit` with fake CPU devices in the place of the TPU compiler's."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import pytest

from owl2_jax.cli import main
from owl2_jax.core.errors import Owl2Error
from owl2_jax.parallel.chips import GIB, compiler_environment, parse_topology
from owl2_jax.perf import fitting, published, run_config, searching, versions
from owl2_jax.perf.forecast import Forecast
from owl2_jax.perf.tpu_compile import Fit, Memory, Roofline
from owl2_jax.perf.traffic import Traffic

TINY = [
    "--preset=owl2_tiny", "--topology=v5e:2x4", "--rows=8", "--length=24", "model.attention=xla",
    "model.vision.num_layers=1", "model.abstractor.num_layers=1", "model.decoder.num_layers=1",
    "model.decoder.vocab_size=64", "model.scan_unroll=1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def fake_chips(monkeypatch):
    for name in compiler_environment(parse_topology("v5e:2x4")):
        monkeypatch.setenv(name, "cpu")  # what the command sets goes away with the test
    monkeypatch.setattr(versions, "check_compiler", lambda: versions.Versions("0.10.2", "0.10.2", "0.0.42.1"))
    monkeypatch.setattr(fitting, "topology_devices", lambda topology: jax.devices()[: topology.count])


def test_json_holds_memory_flops_traffic_and_roofline(capsys):
    assert main.main(["fit", "--json", *TINY]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["chips"], report["mesh"]["fsdp"], report["fits"]) == (8, 8, True)
    memory = report["memory"]
    assert memory["optimiser"] == pytest.approx(2 * memory["parameters"], rel=0.01)
    assert memory["needed"] < memory["capacity"] == 15.75 * GIB
    for part in ("vision", "abstractor", "decoder", "head"):
        assert report["flops_all_chips"][part]["backward"] > report["flops_all_chips"][part]["forward"]
    line = report["roofline"]
    waiting = line["waiting_seconds"] if line["limit"] == "products" else 0
    assert line["step_seconds"] == line[f"{line['limit']}_seconds"] + waiting
    assert {row["op"] for row in report["traffic"]["collectives"]} >= {"all-gather", "all-reduce"}
    assert report["traffic"]["unknown_loops"] == 0


@pytest.mark.parametrize("what", ["prefill", "decode"])
def test_inference_is_printed_as_tables(what, capsys):
    assert main.main(["fit", f"--what={what}", "--mesh=data=4,tensor=2", *TINY]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{what} on v5e:2x4 (8 chips; data 4, tensor 2)")
    for words in (
        "memory per chip",
        "cache",
        "\nMFLOP of all chips",
        "step time in seconds",
        "\nbound ",
        "\nforecast ",
        "by libtpu 0.0.42.1, jax",
    ):
        assert words in text


def test_ops_say_where_the_time_goes_and_the_page_shows_it(tmp_path, capsys):
    page = tmp_path / "fit.html"
    assert (
        main.main(["fit", "--what=decode", "--mesh=data=4,tensor=2", "--ops", f"--html={page}", *TINY]) == 0
    )
    text = capsys.readouterr().out
    for words in ("part of the model", "of peak", "the 20 dearest operations", "model/"):
        assert words in text
    shown = page.read_text()
    assert "<title>decode on v5e:2x4 (8 chips; data 4, tensor 2)</title>" in shown
    assert "libtpu 0.0.42.1" in shown


def test_json_holds_the_forecast_and_its_operations(capsys):
    assert main.main(["fit", "--json", "--ops", "--mesh=data=8", *TINY]) == 0
    report = json.loads(capsys.readouterr().out)
    ahead = report["forecast"]
    assert ahead["step_seconds"] >= max(report["roofline"]["memory_seconds"], 1e-6)
    assert set(ahead["left_out"]) == {"bound", "forecast"}
    assert report["versions"] == {"jax": "0.10.2", "jaxlib": "0.10.2", "libtpu": "0.0.42.1"}
    shares = [group["share"] for group in report["ops"]["groups"]]
    assert sum(shares) == pytest.approx(1.0, abs=0.01)
    assert len(report["ops"]["dearest"]) == 20


def test_a_page_that_cannot_be_written_is_refused_before_compiling(tmp_path, capsys):
    assert main.main(["fit", f"--html={tmp_path / 'none' / 'fit.html'}", *TINY]) == 2
    assert "there is no folder" in capsys.readouterr().err


def search(arguments, capsys, monkeypatch):
    """Runs a search over made-up programs; its report, and what was compiled."""
    tried = []

    def measure(plan):
        tried.append(plan)
        return fake_result(plan)

    monkeypatch.setattr(fitting, "measure", measure)
    monkeypatch.setattr(searching, "topology_devices", lambda topology: jax.devices()[: topology.count])
    assert main.main(["fit", "--search", "--json", *TINY, "--rows=32", *arguments]) == 0
    return json.loads(capsys.readouterr().out), tried


def test_search_ranks_by_the_forecast_over_remat_batch_options_and_mesh(capsys, monkeypatch):
    report, tried = search([], capsys, monkeypatch)
    seen = [(plan.model.remat, plan.rows_per_piece, plan.accumulation) for plan in tried]
    assert seen[:3] == [("none", 1, 4), ("none", 2, 2), ("products", 1, 4)]
    # "none" stops fitting at 2 rows at a time, "products" fits with 4 and has the fastest step of all.
    assert (report["remat"], report["rows_per_piece"]) == ("products", 4)
    assert len(report["attempts"]) == len(tried)
    # From there it goes on with options, of which one helps, and then the mesh.
    assert report["options"] == {"xla_tpu_scoped_vmem_limit_kib": "65536"}
    assert {plan.mesh.shape["tensor"] for plan in tried[-4:]} >= {2, 4}
    assert 'config.model.remat = "products"' in report["best"]["lines"]
    assert (
        "config.train.compiler_options = {'xla_tpu_scoped_vmem_limit_kib': '65536'}"
        in report["best"]["lines"]
    )


def test_search_looks_how_tokens_of_images_are_better_taken_and_put_back(capsys, monkeypatch):
    ways = {"gather", "product"}
    for start in ("gather", "product", "select"):
        report, tried = search([f"model.image_kv={start}"], capsys, monkeypatch)
        seen = [plan.model.image_kv for plan in tried]
        assert {way: seen.count(way) for way in ways - {start}} == dict.fromkeys(ways - {start}, 1)
        assert f'config.model.image_kv = "{start}"' in report["best"]["lines"]
        attempts = [attempt["words"] for attempt in report["attempts"]]
        assert any("images' keys and values by product" in words for words in attempts)


def test_search_tries_other_tiles_and_numbers_of_logits_at_a_time(capsys, monkeypatch):
    fields = ["model.attention=splash", "model.splash_block=1024", "train.loss_chunk=128"]
    fields += ["--length=1024", "model.decoder.max_length=1024"]
    report, tried = search(fields, capsys, monkeypatch)
    assert {plan.model.splash_block for plan in tried} == {256, 512, 1024}
    assert {plan.logits_at_a_time for plan in tried} == {0, 128, 512}
    assert "config.train.loss_chunk = 128" in report["best"]["lines"]
    assert sum("logits of 512 at a time" in attempt["words"] for attempt in report["attempts"]) == 1


def plan_of(monkeypatch, *overrides):
    monkeypatch.setattr(fitting, "topology_devices", lambda topology: jax.devices()[: topology.count])
    sizes = ["data.rows=32", "data.images=32", "data.row_length=24"]
    config = run_config.load(None, "owl2_tiny", None, None, [*sizes, *overrides])
    return fitting.make_plan("train", config, parse_topology("v5e:2x4"), None, False)


def test_a_batch_in_more_parts_has_shards_that_keep_images_with_their_rows(monkeypatch):
    plan = plan_of(monkeypatch, "data.shards=8")
    found = {parts: searching._in_parts(plan, parts) for parts in (1, 2, 4, 8)}
    assert {parts: one.shape.shards for parts, one in found.items()} == {1: 8, 2: 16, 4: 32, 8: 8}
    assert {parts: one.images_beside for parts, one in found.items()} == {1: True, 2: True, 4: True, 8: False}
    assert "config.data.shards = 16" in searching.config_lines(found[2])


def test_a_plan_tells_what_differs_from_others(monkeypatch):
    """Rows of six supervised positions have no parts of eight."""
    plan = plan_of(monkeypatch, "data.shards=2", "train.loss_chunk=8", "data.max_targets=6")
    assert (plan.logits_at_a_time, plan.images_beside) == (0, False)
    assert "images moved between devices" in fitting.describe(plan)
    assert "logits" not in fitting.describe(plan)


def test_search_remembers_what_it_tried(tmp_path, capsys, monkeypatch):
    memory = f"--tried={tmp_path / 'tried.jsonl'}"
    first, tried = search([memory], capsys, monkeypatch)
    second, again = search([memory], capsys, monkeypatch)
    assert (len(tried) > 10, again) == (True, [])
    assert second["best"] == {**first["best"], "remembered": True}
    # Another compiler's times say nothing.
    other = versions.Versions("0.10.2", "0.10.2", "0.0.42")
    monkeypatch.setattr(versions, "check_compiler", lambda: other)
    assert len(search([memory], capsys, monkeypatch)[1]) == len(tried)


def test_search_goes_on_after_a_change_that_the_program_refuses(capsys, monkeypatch):
    monkeypatch.setattr(searching, "topology_devices", lambda topology: jax.devices()[: topology.count])
    built = []

    def measure(plan):
        if plan.train.compiler_options == {"xla_tpu_scoped_vmem_limit_kib": "32768"}:
            raise Owl2Error("the TPU compiler failed: too little of something")
        built.append(fitting.build(plan.what, plan.model, plan.train, plan.shape, plan.mesh))
        return fake_result(plan)

    monkeypatch.setattr(fitting, "measure", measure)
    heads = ["model.decoder.width=96", "model.decoder.num_heads=6", "model.decoder.num_kv_heads=2"]
    assert main.main(["fit", "--search", "--json", *TINY, "--rows=32", *heads]) == 0
    output = capsys.readouterr()
    assert output.err.count("left out ") == 2
    assert "tpu_scoped_vmem_limit_kib=32768: the TPU compiler failed" in output.err
    assert "cannot be cut over mesh axis tensor of 4" in output.err
    words = [attempt["words"] for attempt in json.loads(output.out)["attempts"]]
    assert any("tensor=2" in each for each in words)
    assert not any("tensor=4" in each or "=32768" in each for each in words)
    assert len(words) == len(built)


def test_search_prints_attempts_tables_and_config_lines(capsys, monkeypatch):
    monkeypatch.setattr(fitting, "measure", fake_result)
    monkeypatch.setattr(searching, "topology_devices", lambda topology: jax.devices()[: topology.count])
    assert main.main(["fit", "--search", *TINY, "--rows=32"]) == 0
    text = capsys.readouterr().out
    assert 'config lines of the best\n  config.model.remat = "products"' in text
    assert " * remat=products, 4 rows at a time, accumulation 1, tpu_scoped_vmem_limit_kib=65536" in text
    assert "does not fit" in text


def fake_result(plan):
    """Fits up to one row at a time without remat, any number with it; larger batches are faster."""
    fits = plan.model.remat != "none" or plan.rows_per_piece == 1
    needed = 1.0 if fits else 1e12
    slow = {"none": 1.0, "products": 1.1}.get(plan.model.remat, 2.0)
    slow *= plan.mesh.shape["tensor"] * plan.model.scan_unroll
    slow *= 0.9 if plan.train.compiler_options == {"xla_tpu_scoped_vmem_limit_kib": "65536"} else 1.0
    line = Roofline(slow / plan.rows_per_piece, 0.0, 0.0, 0.0, 1.0, 1.0) if fits else None
    ahead = Forecast(2 * slow / plan.rows_per_piece, ()) if fits else None
    memory = Memory(plan.topology.chip.memory, 1.0, 0.0, 0.0, needed, {})
    workload = SimpleNamespace(flops={}, tokens=1)
    return fitting.Result(plan, workload, Fit(plan.topology, memory, line, Traffic(), 0.0, ahead))


def test_a_published_step_is_set_against_the_forecast(capsys, monkeypatch):
    small = dataclasses.replace(
        published.STEPS["maxtext_32b_v5e"], topology="v5e:2x4", width=64, num_layers=2, num_heads=4,
        num_kv_heads=4, mlp_dim=128, rows=1, length=32, mesh="fsdp=8", vocab_size=64, deviation="small",
    )  # fmt: skip
    monkeypatch.setitem(published.STEPS, "small", small)
    assert main.main(["fit", "--published=small", "model.attention=xla"]) == 0
    text = capsys.readouterr().out
    assert "MFU  66.9% by its own count of operations; MaxText" in text
    assert "differs from it: small" in text
    assert "forecast over published: " in text
    assert main.main(["fit", "--published=smal", "--topology=v5e:2x4"]) == 2
    assert "unknown published step 'smal'; did you mean 'small'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=v5e:16"], "topology 'v5e:16': v5e has 2 dimensions, for example v5e:4x4"),
        (["--topology=v7:4x4"], "unknown TPU generation 'v7'"),
        (["--mesh=fsdp=3"], "fsdp 3 * tensor 1 = 3, but there are 8 devices"),
        (["--mesh=tensor=8"], "axis heads of 4 cannot be cut over mesh axis tensor of 8: 4 = 0 * 8 + 4"),
        (["--what=speak"], "unknown workload 'speak'"),
        (["model.remat=ful"], "unknown model.remat 'ful'; did you mean 'full'?"),
        (["--rows=12"], "12 batch rows do not divide over dcn 1 * data 1 * fsdp 8 = 8: 12 = 1 * 8 + 4"),
        (["--tried=file.jsonl"], "--tried keeps what --search tried; add --search, or leave it out"),
        (["--rows=0"], "--rows must be at least 1, found 0"),
    ],
)
def test_bad_input_is_one_line_with_the_arithmetic(arguments, message, capsys):
    assert main.main(["fit", *TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
