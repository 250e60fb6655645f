"""Requests that compile what most requests will need."""

from __future__ import annotations

import numpy as np

from owl2_jax.inference.engine import EngineConfig
from owl2_jax.inference.loaded import LoadedModel
from owl2_jax.inference.request import Request
from owl2_jax.inference.sampling import Sampling


def warm_up_requests(model: LoadedModel, engine: EngineConfig) -> list[list[Request]]:
    """A question without and one with an image, greedy and sampled: alone, and in all slots at a time."""
    size = model.config.vision.image_size
    image = np.zeros((size, size, 3), np.uint8)
    batches = []
    for sampling in (Sampling(), Sampling(temperature=1.0)):
        for tag, images in (("", []), (model.image_tag, [image])):
            request = Request(
                [{"role": "user", "content": f"{tag}What is this?"}], images, sampling, max_new_tokens=2
            )
            batches += [[request], [request] * engine.slots]
    return batches
