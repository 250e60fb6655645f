"""The tiny model behind one server that most tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from owl2_jax.inference.loaded_model import LoadedModel
from tests.serving.running import Running, serve


@pytest.fixture(scope="session")
def model(tiny_config, tiny_params, toy_tokenizer) -> LoadedModel:
    return LoadedModel(tiny_config, tiny_params, toy_tokenizer, name="tiny")


@pytest.fixture(scope="package")
def shared(model) -> Iterator[Running]:
    with serve(model, queue=8, images=4, pixels=1_000_000, body_bytes=2**20, body_seconds=1.0) as running:
        yield running
