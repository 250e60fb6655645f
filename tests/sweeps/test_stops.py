"""halving.json."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.sweeps.stops import Stop, forget_stops, read_stops, write_stops


def test_stops_are_read_as_they_were_written_until_they_are_forgotten(folder):
    assert read_stops(folder) == {}
    folder.path.mkdir()
    stops = {"queries-2": Stop("easy_vqa", 2, 60.5, 70.5, 3)}
    write_stops(folder, stops)
    assert read_stops(folder) == stops
    forget_stops(folder)
    forget_stops(folder)
    assert read_stops(folder) == {}


@pytest.mark.parametrize("text", ['{"a": 1}', "[1]", '{"a": {"measure": "x"}}', "{"])
def test_a_damaged_file_is_named(folder, text):
    folder.path.mkdir()
    (folder.path / "halving.json").write_text(text)
    with pytest.raises(Owl2Error, match=r"halving\.json.*delete it"):
        read_stops(folder)
