"""The configuration that `owl2 fit` and `owl2 bench` take: a file's, or one around a model preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from owl2_jax.config import RunConfig, apply_overrides, read_config_file
from owl2_jax.core.fields import check_value
from owl2_jax.core.ranges import Count, Whole
from owl2_jax.model.presets import preset


def load(
    config: str | None,
    preset_name: str | None,
    rows: int | None,
    length: int | None,
    overrides: Sequence[str],
    values: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The configuration of a file, or a plain one around a model preset.

    Args:
      values: a configuration in the place of file and preset.

    A preset gets one image and one sample per row, full rows, and a loss in
    chunks.

    Raises:
      Owl2Error: see `owl2_jax.config`.
    """
    if values is None:
        values = read_config_file(config) if config is not None else _plain(str(preset_name))
    return RunConfig.from_dict(_resize(apply_overrides(values, overrides), rows, length))


def _plain(name: str) -> dict[str, Any]:
    longest = preset(name).decoder.max_length
    return {
        "model": {"preset": name},
        "data": {
            "datasets": {"synthetic": {"kind": "embedded", "options": {"dataset": "facts"}}},
            "rows": 256,
            "shards": 256,
            "row_length": longest,
            "images_per_row": 1,
            "images": 256,
        },
        "train": {"total_steps": 1, "loss_chunk": 512},
    }


def _resize(values: Mapping[str, Any], rows: int | None, length: int | None) -> dict[str, Any]:
    data = values.get("data", {})
    if not isinstance(data, Mapping):
        return dict(values)  # refused with the other fields
    data = dict(data)
    if rows is not None:
        check_value(Count, data.get("rows", 1), "data.rows")
        check_value(Whole, data.get("images", 0), "data.images")
        images = data.get("images", 0) / data.get("rows", 1)
        data |= {"rows": rows, "shards": rows, "images": round(images * rows)}
    if length is not None:
        data["row_length"] = length
    return {**values, "data": data}
