"""Facts about countries, from countryinfo."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from owl2_jax.data_tools.corpus.concepts import Concept

# ISO 639-1 codes of languages that are the only one listed for some country.
LANGUAGE_NAMES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fr": "French",
    "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "is": "Icelandic", "it": "Italian",
    "ja": "Japanese", "ka": "Georgian", "km": "Khmer", "ko": "Korean", "lo": "Lao", "lt": "Lithuanian",
    "lv": "Latvian", "mn": "Mongolian", "my": "Burmese", "ne": "Nepali", "nl": "Dutch", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovene", "so": "Somali",
    "sq": "Albanian", "sv": "Swedish", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese",
    "zh": "Chinese",
}  # fmt: skip

# The source's answer is out of date or no city's name, so no question is made of it.
DOUBTFUL_CAPITALS = ("BI", "HK", "KZ", "SZ")


@dataclass(frozen=True)
class Country:
    """Facts about one country; None where the source has none, or several that differ."""

    code: str
    name: str
    capital: str | None
    continent: str | None
    region: str | None
    demonym: str | None
    language: str | None


def read_countries(folder: Path, concepts: Sequence[Concept]) -> dict[str, Country]:
    """Reads the facts, by ISO alpha-2 code, of every country that has a flag among `concepts`.

    A country is called as its flag is, so that text and images agree.
    """
    entries = defaultdict(list)
    for path in sorted((folder / "countryinfo/data").glob("*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        entries[entry["ISO"]["alpha2"]].append(entry)
    names = {concept.country_code: concept.name.removeprefix("flag of ") for concept in concepts}
    return {code: _country(code, names[code], entries[code]) for code in sorted(entries) if code in names}


def _country(code: str, name: str, entries: list[dict]) -> Country:
    return Country(
        code=code,
        name=name,
        capital=None if code in DOUBTFUL_CAPITALS else _single(_agreed(entries, "capital")),
        continent=_agreed(entries, "region"),
        region=_agreed(entries, "subregion"),
        demonym=_single(_agreed(entries, "demonym")),
        language=_language(entries),
    )


def _agreed(entries: list[dict], key: str) -> str | None:
    """The value that all entries of a country share."""
    values = {value for value in (entry.get(key) for entry in entries) if isinstance(value, str) and value}
    return values.pop() if len(values) == 1 else None


def _single(text: str | None) -> str | None:
    """Drops lists written as text and names of more than one city."""
    return None if text is None or "," in text or "/" in text else text


def _language(entries: list[dict]) -> str | None:
    codes = {code for entry in entries for code in entry.get("languages") or ()}
    return LANGUAGE_NAMES.get(codes.pop()) if len(codes) == 1 else None
