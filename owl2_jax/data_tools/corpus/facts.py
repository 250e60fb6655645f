"""Text-only pairs: translations, facts about countries, groups of things.

A fact is asked in several phrasings. The last phrasing of each kind is held
out: it occurs in the test split alone, about facts that training taught in
other words.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from owl2_jax.data.sources.embedded_records import Record
from owl2_jax.data_tools.corpus.concepts import LANGUAGES, Concept
from owl2_jax.data_tools.corpus.countries import Country

PHRASINGS = {
    "translation": (
        "What is {0} in {1}?",
        "Translate {0} into {1}.",
        "How do you say {0} in {1}?",
    ),
    "group": (
        "What kind of thing is {0}?",
        "Which group does {0} belong to?",
        "What sort of thing is {0}?",
    ),
    "capital": (
        "What is the capital of {0}?",
        "Which city is the capital of {0}?",
        "Name the capital of {0}.",
    ),
    "continent": (
        "Which continent does {0} belong to?",
        "On which continent is {0}?",
        "Name the continent of {0}.",
    ),
    "region": (
        "Which region is {0} in?",
        "What is the region of {0}?",
        "Name the region of {0}.",
    ),
    "demonym": (
        "What are people from {0} called?",
        "What do you call someone from {0}?",
        "Name the people of {0}.",
    ),
    "language": (
        "Which language do people speak in {0}?",
        "What is the language of {0}?",
        "Name the language of {0}.",
    ),
    "country_of_capital": (
        "Which country has the capital {0}?",
        "{0} is the capital of which country?",
        "Name the country with the capital {0}.",
    ),
}

# A translation is asked in one phrasing only, being one of very many; every
# other fact in all training phrasings.
ONE_PHRASING = ("translation",)
MAX_WORDS = 4
TEST_TRANSLATIONS = 500


@dataclass(frozen=True)
class Fact:
    """A kind, the words that fill its phrasings, and the answer."""

    kind: str
    words: tuple[str, ...]
    answer: str

    def ask(self, phrasing: int) -> Record:
        """The fact as a question in the phrasing of that number."""
        return Record(self.kind, PHRASINGS[self.kind][phrasing].format(*self.words), self.answer)


def read_facts(
    concepts: Sequence[Concept], indices: Sequence[int], countries: dict[str, Country]
) -> list[Fact]:
    """Collects the facts about the concepts at `indices` and about every country."""
    facts = list(_country_facts(countries))
    for index in indices:
        facts += _concept_facts(concepts[index])
    return list(dict.fromkeys(facts))


def split_phrasings(facts: Sequence[Fact], seed: int) -> tuple[list[Record], list[Record]]:
    """Asks every fact; returns (training records, test records in the held-out phrasings)."""
    training = []
    for fact in facts:
        rng = random.Random(f"{seed}/phrasing/{fact}")
        known = range(len(PHRASINGS[fact.kind]) - 1)
        chosen = [rng.choice(known)] if fact.kind in ONE_PHRASING else known
        training += [fact.ask(phrasing) for phrasing in chosen]
    translations = [fact for fact in facts if fact.kind == "translation"]
    sample = random.Random(f"{seed}/test translations").sample(
        translations, min(TEST_TRANSLATIONS, len(translations))
    )
    tested = set(sample) | {fact for fact in facts if fact.kind != "translation"}
    return training, [fact.ask(-1) for fact in facts if fact in tested]


def _concept_facts(concept: Concept) -> Iterator[Fact]:
    if concept.group == "flag":
        return
    yield Fact("group", (concept.name,), concept.group)
    for code, translation in sorted(concept.translations.items()):
        if max(len(concept.name.split()), len(translation.split())) <= MAX_WORDS:
            yield Fact("translation", (concept.name, LANGUAGES[code]), translation)


def _country_facts(countries: dict[str, Country]) -> Iterator[Fact]:
    capitals = [country.capital for country in countries.values()]
    for country in countries.values():
        for kind in ("capital", "continent", "region", "demonym", "language"):
            if answer := getattr(country, kind):
                yield Fact(kind, (country.name,), answer)
        if country.capital and capitals.count(country.capital) == 1:
            yield Fact("country_of_capital", (country.capital,), country.name)
