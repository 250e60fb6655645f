from __future__ import annotations

import numpy as np
import pytest

from owl2_jax.data import image_blocks, images
from tests.fuzz import image_files
from tests.fuzz import images as fuzz
from tests.fuzz.run import run


@pytest.mark.filterwarnings("ignore")
def test_500_image_files_give_no_finding():
    assert run("images", 500) == []


def test_wrong_pixels_are_a_finding(monkeypatch):
    monkeypatch.setattr(image_blocks, "hidden_first_frame", lambda data: None)
    rng = np.random.default_rng(0)
    made = next(m for m in iter(lambda: image_files.any_animated_png(rng), None) if "hidden True" in m.what)
    with pytest.raises(AssertionError, match="animated PNG, hidden True"):
        fuzz.check_built(made)


def test_an_error_of_another_type_is_a_finding(monkeypatch):
    def broken(*_, **__):
        raise KeyError("x")

    monkeypatch.setattr(images, "decode", broken)
    with pytest.raises(KeyError):
        fuzz.check_mutated(b"")
