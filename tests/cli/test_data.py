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
            "rows": 4, "row_length": 96, "image_slots": 2, "images": 8,
        }},
        "train": {{"total_steps": 1}},
    }}
"""


@pytest.fixture
def config(tmp_path):
    names = corpora.write_pictures(tmp_path, 3)
    path = corpora.write_set(tmp_path, "mine", [dialogue(f"r{i}", "yes", [names[i % 3]]) for i in range(20)])
    file = tmp_path / "mine.py"
    file.write_text(CONFIG.format(path=str(path)))
    return file


def test_check_prints_counts_and_writes_the_page(config, tmp_path, capsys):
    page = tmp_path / "pages" / "mine.html"
    assert dispatcher.main(["data", "check", str(config), "--output", str(page), "--records", "50"]) == 0
    out = capsys.readouterr().out
    assert "mine" in out
    assert "records read, 0 unusable" in out
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
