"""One server with the chat page, and a browser, that the tests of the page share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from owl2_jax.inference.engine import EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.testing import tiny
from tests.serving.browser import launched
from tests.serving.page.driving import DESKTOP
from tests.serving.running import Running, serve

Open = Callable[..., AbstractContextManager[Page]]

# What the browser itself writes when a request fails, which some tests are about.
REQUEST_FAILED = "Failed to load resource"


@pytest.fixture(scope="package")
def endless(tiny_params, toy_tokenizer) -> LoadedModel:
    """A model that hardly ever ends an answer."""
    decoder = dict(tiny_params["decoder"])
    head = np.array(decoder["head"]["kernel"])
    head[:, toy_tokenizer.eos_id] = 0.0
    params = {**tiny_params, "decoder": {**decoder, "head": {"kernel": head}}}
    return LoadedModel(tiny.tiny_config(decoder__max_length=2048), params, toy_tokenizer, name="tiny-owl")


@pytest.fixture(scope="package")
def served(endless) -> Iterator[Running]:
    with serve(endless, EngineConfig(sequences=2, decode_steps=1), images=4) as running:
        yield running


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    expect.set_options(
        timeout=60_000
    )  # on a busy machine everything takes longer, and nothing comes too late
    with launched() as browser:
        yield browser


@pytest.fixture
def opened(browser, served) -> Open:
    """Opens the page, as `with opened(viewport=...) as page`; any error in its scripts fails the test."""

    @contextlib.contextmanager
    def open_page(url: str = served.url, connected: bool = True, **options: Any) -> Iterator[Page]:
        context = browser.new_context(**{"viewport": DESKTOP} | options)
        page = context.new_page()
        page.set_default_timeout(60_000)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(url)
        if connected:
            expect(page.locator("#model")).to_have_text("tiny-owl")
        yield page
        context.close()
        assert [error for error in errors if not error.startswith(REQUEST_FAILED)] == []

    return open_page


@pytest.fixture
def page(opened) -> Iterator[Page]:
    with opened() as page:
        yield page
