"""Questions as clients send them, and as the engine takes them."""

from __future__ import annotations

import base64
from typing import Any

from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.request import Request, Result
from owl2_jax.sampling.params import Sampling
from owl2_jax.testing import tiny


def data_url(seed: int) -> str:
    return f"data:image/png;base64,{base64.b64encode(tiny.image_file(seed)).decode()}"


def image_part(seed: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(seed)}}


def user(text: str, *images: int) -> dict[str, Any]:
    """A user's message with images in front."""
    parts = [image_part(seed) for seed in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}


def ragged(*temperatures: float) -> list[tuple[dict[str, Any], Request]]:
    """Questions with 0, 1 and 3 images, whose answers differ in length, for each temperature."""
    return [
        _question(f"What{' shape' * (i % 2)}?", images, 6 + 5 * i, temperature)
        for i, images in enumerate([(), (1,), (1, 2, 3)])
        for temperature in temperatures
    ]


def _question(
    text: str, images: tuple[int, ...], length: int, temperature: float
) -> tuple[dict[str, Any], Request]:
    call = {
        "messages": [user(text, *images)],
        "max_tokens": length,
        "temperature": temperature,
        "seed": length,
    }
    request = Request(
        [{"role": "user", "content": "<|image|>" * len(images) + text}],
        [tiny.image_file(seed) for seed in images],
        Sampling(temperature=temperature, seed=length),
        max_new_tokens=length,
    )
    return call, request


def answer_alone(model: LoadedModel, request: Request) -> Result:
    """What an engine with one row and nothing else to do answers."""
    engines = answer_alone.__dict__.setdefault("engines", {})
    engine = engines.setdefault(id(model), Engine(model, EngineConfig(sequences=1)))
    return next(engine.generate([request]))
