from __future__ import annotations

import json

import pytest

from owl2_jax.cli import main as dispatcher
from tests.data import corpora
from tests.data.corpora import dialogue

CONFIG = """
def get_config():
    path = {path!r}
    return {{
        "model": {{"preset": "owl2_tiny"}},
        "data": {{
            "datasets": {{"mine": {{"kind": "llava", "options": {{"path": path}}}}}},
            "rows": 4, "row_length": 96, "images_per_row": 2, "images": 8,
        }},
        "train": {{"total_steps": 1}},
    }}
"""


@pytest.fixture
def config(tmp_path):
    names = corpora.write_images(tmp_path, 3)
    path = corpora.write_set(tmp_path, "mine", [dialogue(f"r{i}", "yes", [names[i % 3]]) for i in range(20)])
    file = tmp_path / "mine.py"
    file.write_text(CONFIG.format(path=str(path)))
    return file


def test_check_prints_counts_and_writes_the_page(config, tmp_path, capsys):
    page = tmp_path / "pages" / "mine.html"
    assert dispatcher.main(["data", "check", str(config), "--output", str(page), "--records", "50"]) == 0
    out = capsys.readouterr().out
    assert "mine" in out
    assert "20 records read (" in out
    assert "with the repeats of small sets), 0 unusable" in out
    assert str(page) in out
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_check_fails_where_training_would_stop(config, tmp_path, capsys):
    records = json.loads((tmp_path / "mine.json").read_text())
    records[3]["image"] = ["nowhere.png"]
    (tmp_path / "mine.json").write_text(json.dumps(records))
    page = tmp_path / "mine.html"
    assert dispatcher.main(["data", "check", str(config), "--output", str(page)]) == 2
    assert "mine/missing" in capsys.readouterr().err
    assert "nowhere.png" in page.read_text()


def test_check_refuses_what_training_would_refuse(config, capsys):
    assert dispatcher.main(["data", "check", str(config), "data.image_mode=padd"]) == 2
    assert "did you mean 'pad'" in capsys.readouterr().err


def test_check_says_what_the_released_reading_costs_and_does(config, tmp_path, capsys):
    records = json.loads((tmp_path / "mine.json").read_text())
    records[3]["conversations"][0]["value"] = "no tag"
    records[3]["image"] = records[3]["image"][0]
    records[5]["conversations"][1]["value"] = "yes</s>"
    (tmp_path / "mine.json").write_text(json.dumps(records))
    page = tmp_path / "mine.html"
    changes = ["data.reading=released", "data.max_rejected_share=0.5"]
    assert dispatcher.main(["data", "check", str(config), "--output", str(page), *changes]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 record holds <s>, </s> or <unk>, which become control ids (data.reading=released)" in out
    assert "record 5 of mine (r5): 'yes</s>'" in out
    assert "data.reading=released refuses 1 record that the released code trains; record 3 of mine: " in out
    assert "the image has no tag" in out


def test_check_names_a_file_of_utf_16_in_one_line(config, tmp_path, capsys):
    records = (tmp_path / "mine.json").read_text()
    (tmp_path / "mine.json").write_text(records, encoding="utf-16")
    assert dispatcher.main(["data", "check", str(config)]) == 2
    err = capsys.readouterr().err
    assert "mine.json is UTF-16, not UTF-8; save it as UTF-8" in err
    assert err.count("\n") == 1


def test_prepare_refuses_a_folder_that_is_there_by_whatever_name(tmp_path, capsys, monkeypatch):
    source = corpora.write_set(tmp_path, "texts", [dialogue("a", "A caption.", [])])
    values = {"datasets": {"texts": {"kind": "llava", "options": {"path": str(source)}}}}
    (tmp_path / "prepare.py").write_text(f"def get_config():\n    return {values!r}\n")
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    for output, words in {
        ".": ". exists and has no manifest.json; choose another output",
        "..": ".. exists and has no manifest.json; choose another output",
        "/": "--output / is the root folder, expected the name of a folder to make",
    }.items():
        assert dispatcher.main(["data", "prepare", f"{tmp_path}/prepare.py", "--output", output]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {words}")
        assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inner", "prepare.py", "texts.json"]
