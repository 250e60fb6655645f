"""Every figure of the pages names its command, device and versions, in a line of one form below it.

`*Figures: COMMANDS · DEVICE · VERSIONS*`, where VERSIONS may be "counted from ...": then no machine
had a part in it. A section may instead link to the section that has the line.
"""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from owl2_jax.inference.engine_config import DEFAULT_CACHE_SHARE, EngineConfig
from owl2_jax.inference.program_sizes import Sizes, page_bytes
from owl2_jax.model.presets import preset
from owl2_jax.parallel.chips import CHIPS, GIB
from tests.docs.blocks import BLOCK, PAGES, ROOT
from tests.docs.stand_ins import why_refused
from tests.docs.test_examples import refusal

LINE = re.compile(r"^\*Figures: (.+?)\*$", re.DOTALL | re.MULTILINE)
FIGURE = re.compile(
    r"(?<![\w.:-])\d[\d ]*(?:\.\d+)? "
    r"(?:ms|s|GB|MB|GiB|kB|%|minutes|hours|TFLOP|GFLOP|µs|\w+ per second)(?!\w)"
)
# Figures that are settings, or somebody else's, or told where the page itself says what they are.
NOT_OURS = {
    "explain/compared.md": "others' documents, which the page names",
    "howto/serve.md#Fields of a request": "limits that the code sets",
    "howto/buckets.md#Data": "a default",
    "explain/paged_cache.md#The paged cache": "a default",
    "index.md#Ten questions": "the reader's GPU",
    "reference/files.md#Results of an evaluation": "a confidence level",
}


def sections(path: Path) -> Iterator[tuple[str, str]]:
    """(heading, text without blocks of code) of a page's parts of level 1 and 2."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    for part in re.split(r"^##? ", text, flags=re.MULTILINE)[1:]:
        heading, _, words = part.partition("\n")
        yield heading, words


def with_figures() -> list[tuple[str, str, str]]:
    """(page, heading, text) of all parts that hold a figure of ours."""
    found = []
    for path in sorted(PAGES.rglob("*.md")):
        page = str(path.relative_to(PAGES))
        for heading, text in sections(path):
            if FIGURE.search(text) and not {page, f"{page}#{heading}"} & NOT_OURS.keys():
                found.append((page, heading, text))
    return found


def has_line(page: str, text: str) -> bool:
    """Whether a part has the line, or links to a part of some page that has it."""
    if LINE.search(text):
        return True
    for link, anchor in re.findall(r"\]\(([\w./]*)#([\w-]+)\)", text):
        target = (PAGES / page).parent / link if link else PAGES / page
        for heading, words in sections(target) if target.is_file() else ():
            name = re.sub(r"[^\w\s-]", "", heading.lower()).replace(" ", "-")
            if name == anchor and LINE.search(words):
                return True
    return False


def test_every_part_with_figures_says_by_what_they_came():
    found = with_figures()
    assert len(found) > 20
    assert [f"{page}: {heading}" for page, heading, text in found if not has_line(page, text)] == []


def lines() -> list[tuple[str, str]]:
    return [
        (str(path.relative_to(PAGES)), " ".join(line.split()))
        for path in sorted(PAGES.rglob("*.md"))
        for line in LINE.findall(path.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(("page", "line"), lines())
def test_a_line_of_figures_has_commands_that_parse_a_device_and_versions(page, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    parts = line.split(" · ")
    assert len(parts) == 3, line
    commands, device, versions = parts
    named = re.findall(r"`((?:owl2|bash|python|pytest) [^`]+)`", commands)
    assert named, line
    for command in named:
        words = shlex.split(command)
        known = (ROOT / words[1]).is_file() if words[0] == "bash" else why_refused(words, refusal) is None
        assert known, command
    assert re.search(r"CPU|chip|H100|H200|TPU", device), line
    assert re.search(r"jax \d+\.\d+\.\d+", versions) or versions.startswith("counted from "), line


def rows_of(path: Path, head: str) -> list[list[str]]:
    """Cells of the rows of the table that begins with `head`."""
    text = path.read_text(encoding="utf-8")
    table = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table]


FITS = "| chip | memory | stage 1"
FORECASTS = "| program | topology | memory per chip"
MEMORY = "| chip | memory | 32 sequences |"
CLAIMS = {
    "claims": "| claim | the paper | measure |",
    "claims_large": "| claim, large size | the paper | measure |",
}
FURTHER = "| the reason | predicts | measure |"
LOAD = "| clients | tokens per second |"


def test_the_readme_repeats_the_figures_of_the_pages():
    readme = ROOT / "README.md"
    assert rows_of(readme, LOAD) == rows_of(PAGES / "reference" / "measured.md", LOAD)
    assert rows_of(readme, MEMORY) == rows_of(PAGES / "explain" / "paged_cache.md", MEMORY)


def test_what_fits_where_has_the_memory_of_the_forecasts():
    forecasts = rows_of(PAGES / "explain" / "forecast.md", FORECASTS)
    told = {f"{topology} {memory.split()[0]}" for _, topology, memory, *_ in forecasts}
    found = set()
    for chip, _, *cells in rows_of(PAGES / "howto" / "memory.md", FITS):
        for cell in cells:
            memory, slice_ = re.fullmatch(r"([\d.]+) GiB on ([\dx]+)(?:, in \d parts)?", cell).groups()
            found.add(f"{chip}:{slice_} {memory}")
    assert len(found) == 9
    assert found <= told


@pytest.mark.parametrize("name", CLAIMS)
def test_the_answers_to_the_claims_are_those_of_their_file(name):
    with (ROOT / "notebooks" / "miniature" / f"{name}.csv").open(newline="") as file:
        found = [row for row in csv.DictReader(file) if row["verdict"] != "not run"]
    told = rows_of(PAGES / "explain" / "miniature.md", CLAIMS[name])
    assert [row[2].replace("`", "").replace(" less ", " - ") for row in told] == [
        row["measure"] for row in found
    ]
    for (*_, base, changed, difference, verdict), row in zip(told, found, strict=True):
        value, low, high = (float(row[name]) for name in ("difference", "low", "high"))
        seen = verdict in ("as claimed", "the contrary")
        most = f"no difference seen (at most {max(-low, high):.1f})"
        interval = f"{value:+.1f} ({low:.1f} to {high:.1f})" if seen else most
        assert verdict == row["verdict"]
        assert [base, changed] == [f"{float(row[name]):.1f}" for name in ("than_mean", "point_mean")]
        assert difference == interval + ("" if row["seeds"] == "5" else f", {row['seeds']} seeds")


def test_the_further_runs_are_those_of_their_file():
    with (ROOT / "notebooks" / "miniature" / "further.csv").open(newline="") as file:
        found = {row["point"]: row for row in csv.DictReader(file)}
    told = rows_of(PAGES / "explain" / "miniature.md", FURTHER)
    assert set(found) == {cell.strip("`") for row in told for cell in (row[3], row[5])}
    for _, _, measure, point, value, beside, other, _ in told:
        for name, cell in ((point, value), (beside, other)):
            assert abs(float(found[name.strip("`")][measure.strip("`")]) - float(cell)) <= 0.051, (
                name,
                measure,
            )


def test_the_memory_of_sequences_is_what_the_shapes_come_to():
    model = preset("owl2_7b")
    each = page_bytes(model, 16) * 2048 // 16 / 4  # bytes of a sequence on one of four chips
    parameters = 3.83 * GIB
    rows = rows_of(PAGES / "explain" / "paged_cache.md", MEMORY)
    assert {row[0] for row in rows} == {name for name, chip in CHIPS.items() if chip.accelerator}
    for name, memory, *cells, most in rows:
        chip = CHIPS[name]
        assert memory == f"{chip.memory / GIB:.2f} GiB"
        for count, cell in zip((32, 64, 128), cells, strict=True):
            assert cell.startswith(f"{count * each / GIB:g} GiB")
            assert ("too much" in cell) == (count * each > chip.memory - parameters)
        assert int(most) == int(DEFAULT_CACHE_SHARE * (chip.memory - parameters) / each)


def test_the_programs_of_a_server_are_those_that_it_compiles():
    sizes = Sizes.of(EngineConfig(sequences=64), preset("owl2_7b"))  # as `owl2 serve` has
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    page = (PAGES / "explain" / "paged_cache.md").read_text(encoding="utf-8")
    *rows, last = (str(size.rows) for size in sizes.decode)
    assert f"steps for {', '.join(rows)} and {last} answers" in readme
    assert f"{', '.join(rows)} or {last} rows of one token" in page
    small, large = (size.tokens for size in sizes.chunks)
    assert f"for {small} and for {large} tokens of prompts" in readme
    assert f"{small} or {large} tokens of at most {sizes.chunks[-1].rows} prompts" in page
    assert f"{sizes.images[0]} or {sizes.images[1]} images" in page
    assert f"at most {len(sizes.decode) + len(sizes.chunks) + len(sizes.images) + 3} programs" in readme
