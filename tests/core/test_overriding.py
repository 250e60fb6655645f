"""A marked method stays what it is, and `help` shows the words of its base."""

from __future__ import annotations

import inspect
import subprocess
import sys

from owl2_jax.convert.ops import Linear, Op
from owl2_jax.core.overriding import override


def test_a_marked_method_is_the_method_and_says_so():
    def method(self):
        return 1

    assert override(method) is method
    assert method.__override__


def test_a_marked_method_has_the_docstring_of_its_base():
    assert Linear.to_ours.__doc__ is None
    assert inspect.getdoc(Linear.to_ours) == inspect.getdoc(Op.to_ours) != ""


def test_marking_imports_nothing_that_is_not_loaded_anyway():
    code = (
        "import sys, typing; import owl2_jax.core; before = set(sys.modules); "
        "import owl2_jax.core.overriding; print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['owl2_jax.core.overriding']"
