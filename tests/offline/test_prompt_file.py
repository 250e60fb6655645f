"""What is read as a file of prompts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.offline.prompt_file import read_rows, to_requests
from owl2_jax.sampling.params import Sampling

CASES = Path(__file__).parents[1] / "data" / "cases"


def test_a_byte_order_mark_before_the_prompts_is_skipped():
    assert read_rows(CASES / "genbom.jsonl") == [{"prompt": "a", "images": [], "id": 1}]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x1c"])
def test_separators_inside_a_prompt_do_not_end_its_line(tmp_path, separator):
    assert read_rows(CASES / "genu.jsonl") == [{"prompt": "a\u2028b", "images": [], "id": 1}]
    path = tmp_path / "in.jsonl"
    text = json.dumps({"prompt": f"a{separator}b"}, ensure_ascii=separator < " ")
    path.write_text(f"{text}\r\n   \r\n{text}\n", encoding="utf-8")
    assert [(row["prompt"], row["id"]) for row in read_rows(path)] == [
        (f"a{separator}b", 1),
        (f"a{separator}b", 3),
    ]


@pytest.mark.parametrize("value", [None, "", [], [""], [None], " "])
def test_the_ways_to_say_no_image_are_those_of_training_data(tmp_path, value):
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "a", "images": value}))
    assert read_rows(tmp_path / "in.jsonl")[0]["images"] == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('{"prompt": "a"}\n'.encode("utf-16"), "is UTF-16"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"<!doctype html><html></html>", "line 1, is not valid JSON: it is a web page"),
        (b'{"prompt": "a"}\n\n{"prompt": ', "line 3, is not valid JSON"),
        (b'{"prompt": "a", "images": [7]}', r"line 1: 'images' is \[7\]"),
        (b'{"prompt": "a", "images": ["a.png", ""]}', "line 1: 'images' is"),
        (b'{"prompt": "a", "image": "a.png"}', "did you mean 'images'"),
        (b'{"prompt": "a", "prompt": "b"}', "line 1, is not to be read: the key 'prompt' stands twice"),
        (b"\xff\xfa", "not UTF-8"),
    ],
)
def test_an_input_that_is_no_list_of_prompts_is_named_with_its_line(tmp_path, data, said):
    (tmp_path / "in.jsonl").write_bytes(data)
    with pytest.raises(Owl2Error, match=said):
        read_rows(tmp_path / "in.jsonl")


def test_settings_of_a_line_win_over_those_of_the_file():
    row = {"id": 1, "prompt": "a", "images": ["b.png"], "n": 2, "temperature": 0.5, "max_new_tokens": 3}
    settings = {"max_new_tokens": 9, "stop": ("end",)}
    first, second = to_requests(row, Path("there"), Sampling(temperature=1.0, top_k=7), settings, choices=1)
    assert (first.prompt, list(first.images)) == ("a", [Path("there/b.png")])
    assert (first.max_new_tokens, first.stop) == (3, ("end",))
    assert (first.sampling.temperature, first.sampling.top_k) == (0.5, 7)
    assert second.sampling.seed != first.sampling.seed
    with pytest.raises(Owl2Error, match=r"^prompt 1: .*temperature"):
        to_requests({**row, "temperature": -1}, Path(), Sampling(), {}, choices=1)
