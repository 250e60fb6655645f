from __future__ import annotations

import numpy as np
import pytest

from owl2_jax.convert.coverage import check_coverage
from owl2_jax.convert.ops import Same
from owl2_jax.convert.safetensors_file import TensorSpec
from owl2_jax.convert.weight_names import Rule, pairs
from owl2_jax.core.errors import Owl2Error

LISTED = list(pairs([Rule("a/layers/scale", "a.{i}.weight", Same())], {"a/layers/scale": (9, 4)}))


def specs(names, shape=(4,)) -> dict[str, TensorSpec]:
    return {name: TensorSpec(shape, np.dtype(np.float32)) for name in names}


def test_an_exact_fit_passes_with_optional_and_ignored_tensors() -> None:
    found = specs([f"a.{i}.weight" for i in range(9)]) | specs(["buffer", "text_model.x"], (2,))
    check_coverage(found, LISTED, {"buffer": (2,), "other": (3,)}, "DIR", lambda n: n.startswith("text_"))


def test_both_lists_are_told_with_counts_and_nearest_names() -> None:
    found = specs([f"a.{i}.weights" for i in range(9)])
    with pytest.raises(Owl2Error) as error:
        check_coverage(found, LISTED, {}, "DIR")
    message = str(error.value)
    assert "9 missing: a.0.weight (nearest: a.0.weights), " in message
    assert "and 3 more; 9 not known: a.0.weights, " in message
    assert "\n" not in message


def test_an_optional_tensor_must_have_its_shape() -> None:
    found = specs([f"a.{i}.weight" for i in range(9)]) | specs(["buffer"], (2,))
    with pytest.raises(Owl2Error, match=r"buffer is \[2\], expected \[3\]"):
        check_coverage(found, LISTED, {"buffer": (3,)}, "DIR")
