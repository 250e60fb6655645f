"""Which compiler for TPUs goes with the installed JAX.

A compiler writes programs that only its own jaxlib reads with certainty, and JAX
names the one it was released with: `libtpu==0.0.42.*; extra == "tpu"`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from typing import Final

from owl2_jax.core.errors import Owl2Error

_PINNED: Final = re.compile(r"libtpu\s*==\s*([\w.*]+)\s*;.*extra\s*==\s*[\"']tpu[\"']")
_INSTALL: Final = "pip install 'owl2_jax[fit]'"


@dataclass(frozen=True)
class Versions:
    """Of what compiles a program for TPU."""

    jax: str
    jaxlib: str
    libtpu: str

    def __str__(self) -> str:
        return f"libtpu {self.libtpu}, jax {self.jax}, jaxlib {self.jaxlib}"


def check_compiler() -> Versions:
    """The installed versions, before anything is compiled.

    Raises:
      Owl2Error: there is no compiler, or not the one that the installed JAX names.
    """
    found = Versions(metadata.version("jax"), metadata.version("jaxlib"), _installed("libtpu"))
    if not found.libtpu:
        raise Owl2Error(
            f"the TPU compiler is not installed; {_INSTALL}, best into an environment of "
            "its own: with it, other programs look for a TPU when they start"
        )
    wanted = pinned_libtpu(metadata.requires("jax") or [])
    if wanted and not _matches(found.libtpu, wanted):
        raise Owl2Error(
            f"libtpu {found.libtpu} does not go with jax {found.jax} and jaxlib {found.jaxlib}: this JAX "
            f"names libtpu {wanted}, and cannot read what another one compiles; "
            f"pip install 'libtpu=={wanted}', or {_INSTALL}"
        )
    return found


def pinned_libtpu(requirements: list[str]) -> str:
    """What JAX's `tpu` extra asks for, as "0.0.42.*"; empty where it pins nothing."""
    return next((found[1] for found in map(_PINNED.match, requirements) if found), "")


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _matches(version: str, wanted: str) -> bool:
    """Whether "0.0.42.1" is one of "0.0.42.*"; a release without a last number is one too."""
    if not wanted.endswith(".*"):
        return version == wanted
    return f"{version}.".startswith(wanted.removesuffix("*"))
