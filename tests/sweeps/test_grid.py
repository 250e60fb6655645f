from __future__ import annotations

import pytest

from owl2_jax.core import fields
from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.sweeps.grid import SweepConfig, load_sweep
from tests.sweeps.conftest import QUERIES, SIZES


def test_grid_has_every_combination_under_a_stable_name(make_sweep):
    sweep = make_sweep(axes={"queries": QUERIES, "size": SIZES}, seeds=[0, 3])
    names = [point.name for point in sweep.points]
    assert names == [f"queries-{q}_size-{s}" for q in (4, 2, 8) for s in (28, 56)]
    assert [run.name for run in sweep.runs] == [f"{name}/seed-{seed}" for seed in (0, 3) for name in names]
    config = sweep.run_config(sweep.find("queries-2_size-56/seed-3"))
    assert (config.model.abstractor.num_queries, config.model.vision.image_size) == (2, 56)
    assert (config.train.seed, config.data.seed) == (3, 3)


def test_one_at_a_time_changes_one_axis_of_the_first_values(make_sweep):
    sweep = make_sweep(axes={"queries": QUERIES, "size": SIZES}, design="one_at_a_time")
    assert [point.name for point in sweep.points] == ["base", "queries-2", "queries-8", "size-56"]
    assert sweep.points[0].labels == {"queries": "4", "size": "28"}
    assert sweep.points[3].labels == {"queries": "4", "size": "56"}


def test_overrides_of_the_command_line_hold_for_all_points(make_sweep, tmp_path):
    make_sweep()
    sweep = load_sweep(str(tmp_path / "sweep.py"), ["train.total_steps=9"])
    assert {sweep.run_config(run).train.num_steps for run in sweep.runs} == {9}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": {"queries": {"2": ["model.abstractor.num_query=2"]}}},
         r"point queries-2 \(model.abstractor.num_query=2\): unknown field of model.abstractor 'num_query'; "
         "did you mean 'num_queries'"),
        ({"axes": {"size": {"30": ["model.vision.image_size=30"]}}},
         "point size-30 .*image_size 30 must be a multiple of vision.patch_size 14"),
        ({"axes": {"queries": {"80": ["model.abstractor.num_queries=80"]}}},
         "point queries-80 .*an image takes 81 tokens .*no text would fit beside it"),
        ({"axes": {"queries": {"2": ["model.abstractor.num_queries"]}}}, "has no value; write NAME=VALUE"),
        ({"axes": {"a": {"1": ["train.seed=1"]}, "b": {"2": ["train.seed=2"]}}},
         "point a-1_b-2: axes 'a' and 'b' both set train.seed"),
        ({"axes": {}}, "axes is empty"),
        ({"axes": {"a": {}}}, "an axis has no value"),
        ({"axes": {"a b": {"1": []}}}, "axis 'a b' becomes part of a folder's name"),
        ({"axes": {"a": {"1/2": []}}}, "'1/2' becomes part of a folder's name"),
        ({"seeds": [1, 1]}, "one is there twice"),
        ({"axis": {}}, "unknown field of sweep 'axis'; did you mean 'axes'"),
        ({"design": "star"}, "unknown sweep.design 'star'"),
        ({"base": "smal.py"}, "smal.py does not exist; there is .*small.py"),
    ],
)  # fmt: skip
def test_bad_grids_are_named_before_anything_runs(make_sweep, changes, message):
    with pytest.raises(Owl2Error, match=message):
        make_sweep(**changes)


def test_unknown_run_is_named_with_the_nearest(make_sweep):
    with pytest.raises(
        Owl2Error, match="unknown run of this sweep 'queries-3/seed-0'; did you mean 'queries-"
    ):
        make_sweep().find("queries-3/seed-0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, -1]}, "sweep.seeds[1] must be from 0 to 4294967295, found -1"),
        ({"seeds": ["0"]}, "sweep.seeds[0]: expected a whole number, from 0 to 4294967295, found '0'"),
        ({"seeds": 3}, "sweep.seeds: expected a sequence, found 3"),
        ({"axes": {"size": 5}}, "sweep.axes.size: expected a mapping, found 5"),
        (
            {"axes": {"size": {"1": "train.seed=1"}}},
            "sweep.axes.size.1: expected a sequence, found 'train.seed=1'",
        ),
        ({"axes": {"size": {"1": [5]}}}, "sweep.axes.size.1[0]: expected text, found 5"),
        ({"max_questions": -1}, "sweep.max_questions must be at least 0, found -1"),
        ({"base": ""}, "sweep.base: expected text that is not empty, found ''"),
        ({"start_from": 5}, "sweep.start_from: expected text, found 5"),
    ],
)
def test_a_value_of_a_sweep_that_cannot_be_is_refused_by_its_name(changes, message):
    values = {"base": "a.py", "axes": {"size": {"1": ["train.seed=1"]}}}
    with pytest.raises(Owl2Error) as caught:
        fields.from_dict(SweepConfig, values | changes, "sweep")
    assert message in str(caught.value)


def test_another_point_can_be_the_one_that_all_are_compared_with(make_sweep):
    sweep = make_sweep()
    assert sweep.base_point.name == "queries-4"
    chosen = load_sweep(sweep.location, compared_with="queries-8")
    assert chosen.base_point.name == "queries-8"
    assert [point.name for point in chosen.points] == [point.name for point in sweep.points]
    with pytest.raises(UnknownNameError, match=r"point of this sweep 'queries-9'.*queries-8"):
        load_sweep(sweep.location, compared_with="queries-9")


def test_runs_are_chosen_one_by_one_or_by_points_whose_first_seeds_come_first(make_sweep):
    sweep = make_sweep(axes={"queries": QUERIES}, seeds=[0, 1])
    chosen = sweep.chosen(["queries-8", "queries-2/seed-1", "queries-4", "queries-8/seed-0"])
    assert [run.name for run in chosen] == [
        "queries-2/seed-1", "queries-8/seed-0", "queries-4/seed-0", "queries-8/seed-1", "queries-4/seed-1",
    ]  # fmt: skip
    with pytest.raises(UnknownNameError, match="unknown point of this sweep 'queries-9'"):
        sweep.chosen(["queries-9"])
