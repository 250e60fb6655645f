"""Captions and questions about the drawn concepts, and which concepts are held out.

A concept is held out whole: its image and its name occur in no training
example, not even as a wrong option or in a text-only pair. It is asked for its
group and its color and with yes/no questions, since nobody can know a name
that was never taught.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from owl2_jax.data.sources.embedded_records import Record
from owl2_jax.data_tools.corpus.concepts import Concept
from owl2_jax.data_tools.corpus.countries import Country

HELD_OUT_SHARE = 0.1

NAME_QUESTIONS = ("What does the picture show?", "What is this?")
GROUP_QUESTIONS = ("What kind of thing is this?", "Which group does this belong to?")
COLOR_QUESTIONS = ("What is the main color?", "Which color covers most of it?")
LETTERS = "ABCD"

# Names in these groups are read as they are: "keycap 3", "flag of Chile".
NO_ARTICLE = ("symbol",)
DEFINITE_ARTICLE = ("flag",)

GROUP_PHRASES = {
    "activity": "sport or play",
    "nature": "something from nature",
    "flag": "a flag",
    "food": "food",
    "object": "an object",
    "person": "a person",
    "smiley": "a smiley",
    "symbol": "a symbol",
    "travel": "a place or travel",
}


def held_out(concepts: Sequence[Concept], seed: int) -> set[int]:
    """Picks `HELD_OUT_SHARE` of each group; returns indices into `concepts`."""
    chosen: set[int] = set()
    for group, members in sorted(_by_group(concepts, range(len(concepts))).items()):
        random.Random(f"{seed}/held out/{group}").shuffle(members)
        chosen |= set(members[: round(HELD_OUT_SHARE * len(members))])
    return chosen


def with_article(concept: Concept) -> str:
    """The name as it stands in a sentence: "an owl", "the flag of Chile", "scissors"."""
    name = concept.name
    if concept.group in DEFINITE_ARTICLE and name.startswith("flag of"):
        return f"the {name}"
    plural = name.endswith("s") and not name.endswith(("ss", "us"))
    if concept.group in NO_ARTICLE or plural:
        return name
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def captions(concepts: Sequence[Concept], indices: Sequence[int]) -> list[Record]:
    """Two captions per concept: what it is; what it is, its group and its color."""
    records = []
    for index in indices:
        concept = concepts[index]
        color = f", mostly {concept.color}" if concept.color else ""
        records.append(Record("drawn", "", with_article(concept), index))
        records.append(
            Record("drawn", "", f"{with_article(concept)}, {GROUP_PHRASES[concept.group]}{color}", index)
        )
    return records


def training_questions(
    concepts: Sequence[Concept], indices: Sequence[int], countries: dict[str, Country], seed: int
) -> list[Record]:
    """Every kind of question, about the concepts at `indices` only."""
    records = scored_questions(concepts, indices, seed)
    for index in indices:
        concept, rng = concepts[index], random.Random(f"{seed}/questions/{index}")
        records.append(Record("name", rng.choice(NAME_QUESTIONS), concept.name, index))
        records.append(_choice_question(concepts, indices, index, rng))
        country = countries.get(concept.country_code or "")
        if country and country.continent:
            question = "Which continent does this flag belong to?"
            records.append(Record("continent", question, country.continent, index))
        if country and country.capital:
            question = "What is the capital of the country with this flag?"
            records.append(Record("capital", question, country.capital, index))
    return records


def scored_questions(concepts: Sequence[Concept], indices: Sequence[int], seed: int) -> list[Record]:
    """The questions that a held-out concept can be scored on: group, color and yes/no.

    Wrong names are those of concepts in `indices`, each exactly once, so that
    neither a name nor having seen it tells yes from no.
    """
    others = _wrong_names(concepts, indices, seed)
    records = []
    for index in indices:
        concept, rng = concepts[index], random.Random(f"{seed}/scored/{index}")
        records.append(Record("group", rng.choice(GROUP_QUESTIONS), concept.group, index))
        if concept.color:
            records.append(Record("color", rng.choice(COLOR_QUESTIONS), concept.color, index))
        # Drawn from the concepts, not from the groups: a large group is as often wrong as right.
        group = rng.choice([other.group for other in concepts if other.group != concept.group])
        for shown, named, answer in (
            (concept.group, concept, "yes"),
            (group, concepts[others[index]], "no"),
        ):
            records.append(Record("yes_no", f"Is this {with_article(named)}?", answer, index))
            records.append(Record("group_yes_no", f"Does this show {GROUP_PHRASES[shown]}?", answer, index))
    return records


def _wrong_names(concepts: Sequence[Concept], indices: Sequence[int], seed: int) -> dict[int, int]:
    """Maps each concept to another of its group, by a seeded cycle through the group."""
    wrong = {}
    for group, members in sorted(_by_group(concepts, indices).items()):
        random.Random(f"{seed}/wrong names/{group}").shuffle(members)
        wrong |= dict(zip(members, members[1:] + members[:1], strict=True))
    return wrong


def _by_group(concepts: Sequence[Concept], indices: Sequence[int]) -> dict[str, list[int]]:
    groups = defaultdict(list)
    for index in indices:
        groups[concepts[index].group].append(index)
    return groups


def _choice_question(
    concepts: Sequence[Concept], indices: Sequence[int], index: int, rng: random.Random
) -> Record:
    """A question with four lettered options: the name, a near one (same subgroup) and two of any."""
    name = concepts[index].name
    others = [concepts[other] for other in indices if other != index]
    near = [other.name for other in others if other.subgroup == concepts[index].subgroup]
    options = [name, rng.choice(near or [other.name for other in others])]
    options += rng.sample([other.name for other in others if other.name not in options], 2)
    rng.shuffle(options)
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return Record("choice", "\n".join(["What is this?", *lines]), LETTERS[options.index(name)], index)
