from __future__ import annotations

import csv
import json
import time

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.sweeps.claims_table import answers
from owl2_jax.sweeps.collect import collect
from owl2_jax.sweeps.costs import step_flops
from owl2_jax.sweeps.fits import fit_points
from owl2_jax.sweeps.plots import pareto, series, write_claims_plot, write_plots
from owl2_jax.sweeps.table_files import markdown, write_table
from tests.sweeps import fake_owl2
from tests.sweeps.conftest import QUERIES, SIZES, pretend, pretend_scores


def test_table_has_scores_with_spread_loss_cost_and_time(make_sweep, folder, tmp_path):
    sweep = make_sweep(seeds=[0, 1, 2])
    pretend(sweep, folder)
    table = collect(sweep, folder)
    rows = list(csv.DictReader(write_table(table, tmp_path)[0].open()))
    assert [row["point"] for row in rows] == ["queries-4", "queries-2", "queries-8"]
    first = rows[0]
    assert (first["queries"], first["seeds"]) == ("4", "3")
    assert (float(first["easy_vqa/shape"]), float(first["easy_vqa/shape_deviation"])) == (51.0, 1.0)
    # Seeds 0, 1, 2 score 80, 81, 82 and end with a loss of 0.5, 1.5, 2.5.
    assert (float(first["easy_vqa"]), float(first["easy_vqa_deviation"])) == (81.0, 1.0)
    assert (float(first["loss"]), float(first["loss_deviation"])) == (1.5, 1.0)
    assert first["heldout_loss"] == first["memory_per_chip_bytes"] == ""
    assert [row["tokens_per_image"] for row in rows] == ["5", "3", "9"]
    assert float(first["training_seconds"]) == pytest.approx(0.4)
    # 160 samples a second, a tenth of a second a step.
    assert float(first["flops_per_sample"]) == pytest.approx(step_flops(sweep.run_config(sweep.runs[0])) / 16)


def test_what_is_not_finished_is_left_out_and_named(make_sweep, folder):
    sweep = make_sweep(seeds=[0, 1])
    with pytest.raises(Owl2Error, match=r"no run in .* is finished \(queries-4/seed-0 is not trained"):
        collect(sweep, folder)
    pretend(sweep, folder, [sweep.runs[0], sweep.runs[3], sweep.runs[1]])
    (folder.run(sweep.runs[3]).scores / "scores.json").unlink()
    table = collect(sweep, folder)
    assert [(row.point, row.seeds) for row in table.rows] == [("queries-4", 1), ("queries-2", 1)]
    assert table.rows[0].scores["easy_vqa"].deviation is None
    assert table.missing["queries-4/seed-1"] == "has no score for easy_vqa"
    assert "- queries-8/seed-0 is not trained to its last step" in markdown(table)


def test_scores_that_a_judge_gives_and_damaged_files_are_named(make_sweep, folder):
    sweep = make_sweep()
    pretend(sweep, folder)
    files = folder.run(sweep.runs[0])
    fake_owl2.evaluate(files.scores, ["easy_vqa"], value=None)
    with pytest.raises(
        Owl2Error, match=r"run queries-4/seed-0 has no score for easy_vqa: a judge .*--judgements"
    ):
        collect(sweep, folder)
    (files.scores / "scores.json").write_text('{"scores": [')
    with pytest.raises(Owl2Error, match=r"scores.json is not valid JSON.*delete it and run the sweep again"):
        collect(sweep, folder)
    fake_owl2.evaluate(files.scores, ["easy_vqa"])
    (files.training / "metrics.jsonl").write_text("")
    with pytest.raises(Owl2Error, match=r"metrics.jsonl holds no readings"):
        collect(sweep, folder)


def test_fit_tells_the_chip_hours_of_a_run_and_of_all(make_sweep, folder):
    sweep, said = make_sweep(topology="v5e:2x2", seeds=[0, 1, 2]), []
    memory = {"needed": 2.0**30, "capacity": 2.0**34}
    for point, seconds in zip(sweep.points, (900.0, 1800.0, 450.0), strict=True):
        folder.fit(point).parent.mkdir(parents=True)
        report = {"fits": True, "chips": 4, "memory": memory, "forecast": {"step_seconds": seconds}}
        folder.fit(point).write_text(json.dumps(report))
    assert fit_points(sweep, folder, said.append) == []
    steps = sweep.run_config(sweep.runs[0]).train.num_steps
    assert said[0] == f"queries-4: 1.00 of 16.00 GiB per chip, fits, {steps:.3g} chip-hours a run"
    assert said[-1].startswith(
        f"training of all 9 runs: {3 * 3.5 * steps:.3g} chip-hours of v5e:2x2, as forecast"
    )


def test_memory_per_chip_comes_from_fit(make_sweep, folder, pretended):
    sweep = make_sweep(topology="v5e:2x2")
    pretend(sweep, folder)
    said = []
    assert fit_points(sweep, folder, said.append) == []
    assert said[:2] == ["queries-4: compiling for v5e:2x2", "queries-4: 3.00 of 16.00 GiB per chip, fits"]
    assert {row.memory_per_chip for row in collect(sweep, folder).rows} == {3 * 2**30}
    assert not any("chip-hours" in line for line in said), "without a forecast there is no cost"
    pretended.write_text("fit num_queries=2 2")
    folder.fit(sweep.points[1]).unlink()
    with pytest.raises(Owl2Error, match=r"owl2 fit .* ended with code 2: error: told to end with 2"):
        fit_points(sweep, folder, said.append)
    with pytest.raises(Owl2Error, match="names no slice; set its topology"):
        fit_points(make_sweep(), folder, said.append)


def test_plots_of_every_axis_and_of_the_cost_as_png_and_svg(make_sweep, folder, tmp_path):
    modules = {"full": [], "none": ["model.decoder.adaptive='none'"]}
    sweep = make_sweep(axes={"queries": QUERIES, "module": modules}, seeds=[0, 1])
    pretend(sweep, folder)
    table = collect(sweep, folder)
    paths = write_plots(table, tmp_path / "plots", ["easy_vqa/shape"])
    with pytest.raises(
        Owl2Error, match="unknown part of a benchmark in this table 'easy_vqa/shapes'; did you"
    ):
        write_plots(table, tmp_path / "plots", ["easy_vqa/shapes"])
    assert sum(path.name.startswith("easy_vqa_shape_by_") for path in paths) == len(paths) / 2
    names = {path.name for path in paths[: len(paths) // 2]}
    assert names == {
        f"easy_vqa_by_{what}.{end}" for what in ("queries", "module", "cost") for end in ("png", "svg")
    }
    assert all(path.stat().st_size > 3000 for path in paths)
    before = [path.read_bytes() for path in paths]
    assert [
        path.read_bytes() for path in write_plots(table, tmp_path / "plots", ["easy_vqa/shape"])
    ] == before
    lines = dict(series(table, "queries"))
    assert {name: [row.labels["queries"] for row in rows] for name, rows in lines.items()} == {
        "module full": ["4", "2", "8"], "module none": ["4", "2", "8"],
    }  # fmt: skip


def test_differences_are_drawn_with_their_intervals_where_seeds_tell_them(make_sweep, folder, tmp_path):
    sweep = make_sweep(seeds=[0, 1, 2])
    scores = {"queries-4": [80.0, 82.0, 81.0], "queries-2": [70.0, 72.1, 71.0], "queries-8": [82.0]}
    pretend_scores(sweep, folder, scores)
    paths = write_plots(collect(sweep, folder), tmp_path / "plots")
    drawn = [path for path in paths if "differences" in path.name]
    assert [path.name for path in drawn] == ["easy_vqa_differences.png", "easy_vqa_differences.svg"]
    text = drawn[1].read_text()
    assert all(f"<!-- {point} -->" in text for point in ("queries-2", "queries-8"))
    assert "<!-- queries-4 -->" not in text, "the base is the line at 0"
    assert text.count('id="LineCollection_') == 1


def test_claims_are_drawn_with_what_was_measured_and_losses_are_not(make_sweep, folder, tmp_path):
    fewer = {
        "point": "queries-2", "than": "queries-4", "expect": "lower", "measures": ["easy_vqa", "loss"],
        "says": "fewer are worse",
    }  # fmt: skip
    claims = {"fewer": fewer, "more": {**fewer, "point": "queries-8"}}
    sweep = make_sweep(seeds=[0, 1, 2], claims=claims)
    pretend_scores(sweep, folder, {"queries-4": [80.0, 82.0, 81.0], "queries-2": [70.0, 72.1, 71.0]})
    found = answers(collect(sweep, folder), sweep.config.claims)
    _, drawn = write_claims_plot(found, tmp_path / "plots")
    text = drawn.read_text()
    assert "<!-- queries-2 less queries-4: easy_vqa -->" in text
    assert "loss" not in text
    assert "queries-8" not in text, "it has not run"
    assert write_claims_plot([one for one in found if one.name == "more"], tmp_path / "plots") == []
    assert list((tmp_path / "plots").iterdir()) == [], "what they told is claimed no more"


def test_series_of_one_at_a_time_hold_the_base_and_its_changes(make_sweep, folder):
    sweep = make_sweep(axes={"queries": QUERIES, "size": SIZES}, design="one_at_a_time")
    pretend(sweep, folder)
    assert {name: [row.point for row in rows] for name, rows in series(collect(sweep, folder), "size")} == {
        "queries 4": ["base", "size-56"]
    }


def test_pareto_line_keeps_what_nothing_beats():
    assert pareto([(3.0, 80.0), (1.0, 50.0), (2.0, 40.0), (3.0, 70.0), (5.0, 80.0), (4.0, 90.0)]) == [1, 0, 5]
    assert pareto([]) == []


def test_two_hundred_points_are_collected_in_ten_seconds(make_sweep, folder, tmp_path):
    sizes = {str(16 * i): [f"model.decoder.mlp_dim={16 * i}"] for i in range(1, 201)}
    sweep = make_sweep(axes={"hidden": sizes})
    pretend(sweep, folder)
    started = time.process_time()  # whatever else this machine does
    table = collect(sweep, folder)
    write_table(table, tmp_path)
    write_plots(table, tmp_path / "plots")
    assert len(table.rows) == 200
    assert time.process_time() - started < 10
