"""What a search remembers."""

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.perf import searching


def test_a_file_of_something_else_is_refused_by_its_line(tmp_path):
    path = tmp_path / "tried.jsonl"
    path.write_text('{"question": "What?"}\n')
    with pytest.raises(Owl2Error, match="line 1: no attempt of a search"):
        searching.Memory(path, None)


def test_every_set_of_options_is_names_and_texts_of_the_compiler():
    for options in searching.OPTIONS:
        assert all(name.startswith("xla_") and isinstance(value, str) for name, value in options.items())
