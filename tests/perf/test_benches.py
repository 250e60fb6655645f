"""What `owl2 bench` times where nothing else is said."""

from __future__ import annotations

import pytest

from owl2_jax.perf import benches


@pytest.mark.parametrize(
    ("length", "overrides", "targets"),
    [
        (None, [], 192),  # 257 positions, of which an image takes 65
        (100, [], 35),
        (None, ["data.max_targets=257"], 257),
        (None, ["data.max_targets=0"], 0),  # of all positions
        (None, ["data.images_per_row=0", "data.images=0"], 0),
    ],
)
def test_positions_of_the_bench_presets_image_get_no_logits(
    length: int | None, overrides: list[str], targets: int
) -> None:
    config = benches.load("train", None, "owl2_bench", None, length, overrides)
    assert (config.data.max_targets, config.train.loss_chunk) == (targets, 0)
    assert config.data.row_length == (length or 257)


def test_fields_that_are_given_are_not_overruled_by_the_bench_presets_shape() -> None:
    given = ["data.row_length=100", "data.rows=2", "data.shards=2", "data.images=2"]
    data = benches.load("train", None, None, None, None, given).data
    assert (data.row_length, data.rows, data.images, data.max_targets) == (100, 2, 2, 35)
    data = benches.load("train", None, None, 8, None, []).data
    assert (data.row_length, data.rows, data.shards, data.images) == (257, 8, 8, 8)


def test_another_preset_is_taken_as_it_is() -> None:
    config = benches.load("train", None, "owl2_tiny", None, 128, [])
    assert (config.data.max_targets, config.train.loss_chunk) == (0, 512)
