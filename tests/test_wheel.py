"""A wheel built of this tree and installed into an environment of its own has everything that it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from owl2_jax.core.recipes import recipe_names
from owl2_jax.version import __version__

ROOT = Path(__file__).parents[1]
BUILT_OF = ("owl2_jax", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
# Nothing else may bring the package along.
ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

LOOK = """
import owl2_jax, sys
from owl2_jax.config import load_config
from owl2_jax.core.recipes import recipe_names
from owl2_jax.data.pipeline import load_tokenizer
assert owl2_jax.__file__.startswith(sys.prefix), owl2_jax.__file__
print(load_config("instruct_7b:image_size=336").model.vision.image_size)
print(len(load_tokenizer(load_config("tiny/stage2").data).bytes) > 0)
print(len(recipe_names()))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of a copy, as building leaves files beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in BUILT_OF:
        source, target = ROOT / name, folder / "tree" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", f"--wheel-dir={folder}", folder / "tree"]
    subprocess.run([*pip, *options], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of a fresh environment with the wheel; dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("fresh") / "environment"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        f"--python={python}",
        "--quiet",
        "--disable-pip-version-check",
        "install",
    ]
    subprocess.run([*pip, "--no-deps", "--no-index", "--no-compile", wheel], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    # A line in a .pth file is looked at last, and brings no editable install along.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_holds_every_file_of_the_package_and_every_recipe(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [
        path for path in (ROOT / "owl2_jax").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    configs = [path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.py")]
    wanted = {str(path.relative_to(ROOT)) for path in files} | {
        f"owl2_jax/recipes/{path}" for path in configs
    }
    assert len(wanted) > 300
    assert wanted - names == set()
    assert not any(name.startswith("tests/") for name in names)


def test_the_installed_package_finds_its_recipes_and_its_data(python, tmp_path):
    done = subprocess.run(
        [python, "-c", LOOK], cwd=tmp_path, env=ALONE, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["336", "True", str(len(recipe_names()))]


def test_the_installed_command_runs(python, tmp_path):
    owl2 = python.with_name("owl2")
    version = subprocess.run(
        [owl2, "--version"], cwd=tmp_path, env=ALONE, capture_output=True, text=True, check=True
    )
    assert version.stdout == f"owl2 {__version__}\n"
    wrong = [owl2, "train", "--config=instuct_7b", "--workdir=x"]
    done = subprocess.run(wrong, cwd=tmp_path, env=ALONE, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: config file instuct_7b does not exist; there is instruct_7b")


def test_the_citation_is_of_this_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
