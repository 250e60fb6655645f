"""The shipped studies: every one is whole at both sizes, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from owl2_jax.config import load_config
from owl2_jax.sweeps.grid import load_sweep

FOLDER = Path(__file__).parents[2] / "configs" / "sweeps"
STUDIES = {
    "query_count": 6, "resolution": 3, "query_x_resolution": 9, "modality_adaptive": 4, "frozen_vision": 2,
    "module_parts": 5,
    "text_vs_multimodal": 6,
}  # fmt: skip


def test_every_study_is_listed_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*STUDIES, "miniature", "start", "studies"}


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


@pytest.mark.parametrize("name", [*(f"{name}.py:size=tiny" for name in STUDIES), "miniature.py"])
def test_tiny_study_is_whole_and_has_three_seeds(name):
    sweep = load_sweep(str(FOLDER / name))
    assert len(sweep.runs) == 3 * len(sweep.points)
    assert sweep.run_config(sweep.runs[0]).model.decoder.width == 128


def test_start_of_the_tiny_studies_is_whole():
    config = load_config(str(FOLDER / "start.py"))
    assert config.model.decoder.adaptive == "none"
    assert config.train.groups[-1].trainable is False


def test_miniature_has_every_axis_of_the_paper_one_at_a_time():
    sweep = load_sweep(str(FOLDER / "miniature.py"))
    assert list(sweep.config.axes) == ["queries", "pixels", "module", "vision", "data"]
    assert sweep.points[0].name == "base"
