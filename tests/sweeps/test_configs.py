"""The shipped studies: every one is whole at both sizes, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from owl2_jax.config import load_config
from owl2_jax.core.errors import UnknownNameError
from owl2_jax.model.owl2 import abstract_params
from owl2_jax.sweeps.costs import step_flops
from owl2_jax.sweeps.grid import load_sweep
from owl2_jax.training import param_groups

FOLDER = Path(__file__).parents[2] / "configs" / "sweeps"
STUDIES = {
    "query_count": 6, "resolution": 3, "query_x_resolution": 9, "modality_adaptive": 4, "frozen_vision": 2,
    "module_parts": 5,
    "text_vs_multimodal": 6,
}  # fmt: skip


def test_every_study_is_listed_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == {
        *STUDIES,
        "claims",
        "claims_further",
        "start",
        "studies",
    }


@pytest.mark.parametrize("name", STUDIES)
def test_full_size_study_is_whole(name):
    sweep = load_sweep(str(FOLDER / f"{name}.py"))
    assert len(sweep.points) == STUDIES[name]
    config = sweep.run_config(sweep.runs[0])
    # The first point is the paper's model.
    assert (config.model.abstractor.num_queries, config.model.vision.image_size) == (64, 448)
    assert (config.model.decoder.width, config.model.decoder.adaptive) == (4096, "full")


def test_parts_of_the_module_vary_on_the_other_decoder_too():
    sweep = load_sweep(str(FOLDER / "module_parts.py") + ":size=owl2_1")
    decoders = [sweep.run_config(run).model.decoder for run in sweep.runs]
    assert [decoder.adaptive for decoder in decoders] == ["full", "qkv", "q", "all", "none"]
    assert all(decoder.qkv_bias and decoder.dynamic_ntk for decoder in decoders)


@pytest.mark.parametrize("name", [f"{name}.py:size=tiny" for name in STUDIES])
def test_tiny_study_is_whole_and_has_three_seeds(name):
    sweep = load_sweep(str(FOLDER / name))
    assert len(sweep.runs) == 3 * len(sweep.points)
    assert sweep.run_config(sweep.runs[0]).model.decoder.width == 128


def test_start_of_the_tiny_studies_is_whole():
    config = load_config(str(FOLDER / "start.py"))
    assert config.model.decoder.adaptive == "none"
    assert config.train.groups[-1].trainable is False


def test_further_runs_of_the_claims_are_one_each_and_begin_where_the_study_does():
    further, claims = (load_sweep(str(FOLDER / f"{name}.py")) for name in ("claims_further", "claims"))
    assert len(further.runs) == 8
    base, study = (one.run_config(one.runs[0]) for one in (further, claims))
    assert (base.data.datasets, base.train) == (study.data.datasets, study.train)
    assert further.config.max_questions == claims.config.max_questions
    words = further.run_config(further.find("reading-words96/seed-0")).data.datasets["words"].options
    assert words["kinds"] == ["word"]


def test_the_further_run_of_the_large_size_halves_its_rate():
    further, claims = (load_sweep(f"{FOLDER / name}.py:size=large") for name in ("claims_further", "claims"))
    base, study = (one.run_config(one.runs[0]) for one in (further, claims))
    assert base.train == study.train
    half = further.run_config(further.find("rate-half/seed-0"))
    assert half.train.schedule.peak_lr == base.train.schedule.peak_lr / 2
    assert len(further.runs) == 2


SMALL = {"queries": 5, "pixels": 3, "module": 4, "data": 3, "vision": 2, "start": 2}


@pytest.mark.parametrize(
    ("argument", "points"), [("size=small", 14), ("size=large", 4), ("claim=queries", 5)]
)
def test_claims_change_one_thing_at_a_time_over_five_seeds(argument, points):
    sweep = load_sweep(f"{FOLDER / 'claims.py'}:{argument}")
    assert len(sweep.points) == points
    assert len(sweep.config.seeds) == 5
    assert sweep.base_point.name == "base"
    assert sweep.run_config(sweep.runs[0]).model.abstractor.num_queries == 8


def test_every_claim_of_the_paper_is_an_axis():
    sweep = load_sweep(f"{FOLDER / 'claims.py'}")
    assert {axis: len(values) for axis, values in sweep.config.axes.items()} == SMALL
    one = {run.point.name: sweep.run_config(run) for run in sweep.runs[: len(sweep.points)]}
    # Rows of more queries hold as many images; of each modality alone a step has as many samples.
    assert [one[f"queries-{n}"].data.row_length - 3 * n for n in (16, 64, 128)] == [232, 232, 232]
    assert len({config.train.num_steps for config in one.values()}) == 1
    assert set(one["data-images"].data.datasets) == {"captions", "scenes"}
    assert (set(one["data-text"].data.datasets), one["data-text"].data.images) == ({"scenes_text"}, 0)
    assert one["start-warmup"].train.start_from == "runs/scenes/small/warmup"
    assert sweep.start_of(sweep.find("start-warmup/seed-0")) == "runs/scenes/small/warmup"
    assert sweep.start_of(sweep.find("base/seed-0")) == "runs/scenes/small/stage1"


def test_unknown_claims_and_sizes_are_named():
    with pytest.raises(UnknownNameError, match=r"unknown claim 'query'.*queries"):
        load_sweep(f"{FOLDER / 'claims.py'}:claim=query")
    with pytest.raises(UnknownNameError, match="unknown size of the claims 'big'"):
        load_sweep(f"{FOLDER / 'claims.py'}:size=big")


def test_the_claims_of_both_sizes_stay_within_their_budget_of_work():
    """FLOPs of all training steps; at 35 GFLOP/s of a core this is 4.6 hours of two."""
    work = 0.0
    for size in ("small", "large"):
        sweep = load_sweep(f"{FOLDER / 'claims.py'}:size={size}")
        configs = [sweep.run_config(run) for run in sweep.runs]
        work += sum(step_flops(config) * config.train.num_steps for config in configs)
    assert work < 1.2e15


@pytest.mark.parametrize("phase", ["warmup", "stage1", "stage2"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_phases_on_scenes_are_whole(phase, size):
    config = load_config(f"{FOLDER.parent / 'scenes' / phase}.py:size={size}")
    assert config.model.decoder.width == {"small": 128, "large": 192}[size]
    specs = param_groups.assign_groups(abstract_params(config.model), config.train)
    assert any(spec.trained for spec in specs.values())
