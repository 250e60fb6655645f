"""The recipes of `configs/` by name, from a work tree and from an installed package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from owl2_jax.core.errors import nearest

_PACKAGE: Final = Path(__file__).parents[1]
# A wheel has a copy of configs/ inside the package (setup.py); a work tree has the folder itself.
_FOLDERS: Final = (_PACKAGE / "recipes", _PACKAGE.parent / "configs")


def recipes_folder() -> Path | None:
    """Where the recipes lie; None where a package has none."""
    return next((folder for folder in _FOLDERS if (folder / "instruct_7b.py").is_file()), None)


def recipe_names() -> list[str]:
    """Names of all recipes, as "instruct_7b" or "tiny/stage2"; what defines no config is none."""
    folder = recipes_folder()
    if folder is None:
        return []
    files = [path for path in sorted(folder.rglob("*.py")) if "def get_config" in path.read_text("utf-8")]
    return [path.relative_to(folder).with_suffix("").as_posix() for path in files]


def find_recipe(name: str) -> Path | None:
    """The file of a recipe's name; None for a path, or for what is no recipe."""
    path, folder = Path(name), recipes_folder()
    if folder is None or path.suffix or path.is_absolute() or ".." in path.parts or path.is_file():
        return None
    return folder / f"{name}.py" if name in recipe_names() else None


def near_recipes(name: str) -> list[str]:
    """Recipes whose names look like that of a config file that is not there."""
    stem = name.removeprefix("configs/").removesuffix(".py")
    return nearest(stem, recipe_names())
