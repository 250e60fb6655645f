from __future__ import annotations

import json

import pytest

from owl2_jax.core.errors import Owl2Error
from tests.sweeps.conftest import QUERIES


def test_points_and_seeds_may_be_added(make_sweep, folder):
    few = dict(list(QUERIES.items())[:2])
    folder.take(make_sweep(axes={"queries": few}))
    folder.take(make_sweep(seeds=[0, 1]))
    with pytest.raises(
        Owl2Error, match=r"holds results of another grid .point queries-8 is not in this grid."
    ):
        folder.take(make_sweep(axes={"queries": few}))


def test_another_grid_is_refused_with_the_differences(make_sweep, folder):
    folder.take(make_sweep())
    changed = {**QUERIES, "2": ["model.abstractor.num_queries=3"]}
    with pytest.raises(
        Owl2Error, match=r"point queries-2: .*num_queries=2 -> .*num_queries=3.*another --workdir"
    ):
        folder.take(make_sweep(axes={"queries": changed}))
    with pytest.raises(Owl2Error, match=r"benchmarks: \['easy_vqa'\] -> \['facts'\]"):
        folder.take(make_sweep(benchmarks=["facts"]))


def test_folder_of_something_else_is_refused(make_sweep, folder):
    folder.path.mkdir()
    (folder.path / "thesis.tex").touch()
    with pytest.raises(Owl2Error, match="is not empty and holds no sweep"):
        folder.take(make_sweep())
    (folder.path / "thesis.tex").unlink()
    (folder.path / "sweep.json").write_text("{")
    with pytest.raises(Owl2Error, match=r"sweep.json is not valid JSON.*delete it"):
        folder.take(make_sweep())


def test_a_replaced_checkpoint_to_start_from_is_refused(make_sweep, folder, tmp_path, monkeypatch):
    identity = {"now": "first"}
    monkeypatch.setattr("owl2_jax.sweeps.folder.checkpoint_identity", lambda path: identity["now"])
    sweep = make_sweep(start_from=str(tmp_path / "start"))
    folder.take(sweep)
    folder.take(sweep)
    identity["now"] = "second"
    with pytest.raises(Owl2Error, match=r"start_from=.*start was replaced by another one"):
        folder.take(sweep)


def test_a_folder_of_an_older_version_goes_on_under_the_names_of_today(make_sweep, folder):
    folder.take(make_sweep())
    path = folder.path / "sweep.json"
    noted = json.loads(path.read_text())
    data, train = noted["common"]["base"]["data"], noted["common"]["base"]["train"]
    data["lanes"], train["max_targets"] = data.pop("shards"), data["max_targets"]
    path.write_text(json.dumps(noted))
    folder.take(make_sweep())
    assert json.loads(path.read_text())["common"]["base"]["data"]["shards"] == data["lanes"]
    noted["common"]["base"]["data"]["lanes"] = 4
    path.write_text(json.dumps(noted))
    with pytest.raises(Owl2Error, match=r"another grid \(base\.data\.lanes: 4 -> None; base\.data\.shards"):
        folder.take(make_sweep())
