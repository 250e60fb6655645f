"""Recipes by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from owl2_jax.config import load_config, read_config_file
from owl2_jax.core import recipes
from owl2_jax.core.errors import Owl2Error
from owl2_jax.sweeps.grid import load_sweep

ROOT = Path(__file__).parents[2]


def test_every_config_file_is_a_recipe_and_what_they_share_is_none():
    names = recipes.recipe_names()
    assert {"instruct_7b", "lora_7b", "tiny/stage2", "sweeps/query_count"} <= set(names)
    assert not {"shared_7b", "tiny/common", "sweeps/studies", "mixtures/instruct"} & set(names)


def test_a_name_reads_the_same_config_as_its_file():
    argument = ":image_size=336"
    by_file = load_config(f"{ROOT}/configs/instruct_7b.py{argument}", ["train.total_steps=3"])
    assert load_config(f"instruct_7b{argument}", ["train.total_steps=3"]) == by_file
    assert read_config_file("tiny/stage2") == read_config_file(f"{ROOT}/configs/tiny/stage2.py")


def test_a_sweep_by_name_finds_its_base():
    assert load_sweep("sweeps/query_count:size=tiny").base.endswith("configs/tiny/stage2.py")


def test_an_installed_package_has_them_inside(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "instruct_7b.py").write_text("def get_config():\n    return {'model': 1}\n")
    monkeypatch.setattr(recipes, "_FOLDERS", (tmp_path / "nothing", tmp_path / "recipes"))
    assert recipes.recipe_names() == ["instruct_7b"]
    assert read_config_file("instruct_7b") == {"model": 1}


def test_a_misspelt_name_is_told_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong in ("instuct_7b", "configs/instruct_7b.py"):
        with pytest.raises(Owl2Error, match=rf"config file {wrong} does not exist; there is instruct_7b"):
            read_config_file(wrong)


@pytest.mark.parametrize("name", ["../configs/instruct_7b", "/instruct_7b", "instruct_7b.py", "configs"])
def test_a_path_is_no_recipe(name):
    assert recipes.find_recipe(name) is None


def test_a_file_of_that_name_is_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("instruct_7b").write_text("no Python")
    with pytest.raises(Owl2Error, match="is no Python file"):
        read_config_file("instruct_7b")
