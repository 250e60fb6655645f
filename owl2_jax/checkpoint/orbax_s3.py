"""Orbax on Amazon's store: TensorStore reads and writes it, and Orbax only has to name it to TensorStore.

Orbax knows two kinds of paths, of disks and of Google's store. Three of its
functions decide which driver of TensorStore a path gets; here they learn the third
kind. They are no part of its interface, so a version without them is refused.
"""

from __future__ import annotations

import importlib.metadata
import os
from typing import Any, Final

from owl2_jax.core.buckets import key_values
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.paths import scheme_of

_FUNCTIONS: Final = ("_use_gcs_driver", "_normalize_path")


def commits_by_file(path: str | os.PathLike) -> dict[str, Any]:
    """Arguments of Orbax's savers for a path: how a save becomes whole. Empty where Orbax knows it.

    On Amazon's store, as on Google's, a save counts once its last file is written: it has no rename.

    Raises:
      Owl2Error: the installed Orbax cannot be taught the path.
    """
    if scheme_of(path) != "s3":
        return {}
    know_s3(path)
    from orbax.checkpoint import options

    return {"atomicity_options": options.AtomicityOptions(mode=options.AtomicityMode.COMMIT_FILE)}


def know_s3(path: str | os.PathLike) -> None:
    """Lets Orbax open paths of Amazon's store, if `path` is one.

    Raises:
      Owl2Error: the installed Orbax cannot be taught it.
    """
    if scheme_of(path) != "s3":
        return
    try:
        from orbax.checkpoint._src.path import gcs_utils
        from orbax.checkpoint._src.serialization import tensorstore_utils as utils

        before = [getattr(utils, name) for name in _FUNCTIONS] + [gcs_utils.get_kvstore_for_gcs]
    except (ImportError, AttributeError) as error:
        version = importlib.metadata.version("orbax-checkpoint")
        raise Owl2Error(
            f"{path}: orbax-checkpoint {version} saves and restores nothing on s3:// ({error}); install "
            "orbax-checkpoint 0.12, or give a path of this machine or gs://BUCKET/NAME"
        ) from error
    if getattr(before[0], "knows_s3", False):
        return
    uses_driver, normalized, key_values_of = before

    def use_driver(directory: str) -> bool:
        return scheme_of(directory) == "s3" or uses_driver(directory)

    def normalize(directory: str) -> str:
        return directory.rstrip("/") if scheme_of(directory) == "s3" else normalized(directory)

    def key_values_for(directory: str) -> dict[str, Any]:
        if scheme_of(directory) != "s3":
            return key_values_of(directory)
        spec = key_values(directory)
        return {**spec, "path": spec["path"].rstrip("/")}

    use_driver.knows_s3 = True  # type: ignore[attr-defined]
    utils._use_gcs_driver, utils._normalize_path = use_driver, normalize
    gcs_utils.get_kvstore_for_gcs = key_values_for
