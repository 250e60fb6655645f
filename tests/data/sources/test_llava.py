from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import pytest

from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.data.reasons import REASONS
from owl2_jax.data.sources.base import RecordError
from owl2_jax.data.sources.llava import LlavaSource
from tests.data.sources.images import image


def record(identity, value, image=None):
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "A bus."}]
    return {"id": identity, **({} if image is None else {"image": image}), "conversations": turns}


RECORDS = [
    record("one", "<image>\nWhat is this?", "a.png"),
    record("two", "Compare <image> and <image>.", ["a.png", "sub/b.png"]),
    record("three", 'Only "text" \\ here'),
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").write_bytes(image(1))
    (tmp_path / "sub/b.png").write_bytes(image(2))
    return tmp_path


def write(folder, records, name="train.json"):
    path = folder / name
    if name.endswith("l"):
        path.write_text("".join(json.dumps(one) + "\n" for one in records))
    else:
        path.write_text(json.dumps(records))
    return path


@pytest.mark.parametrize("name", ["train.json", "train.jsonl"])
def test_dialogues_are_read_with_their_images(folder, name):
    source = LlavaSource(write(folder, RECORDS, name))
    assert len(source) == 3
    assert source[0] == {
        "id": "one",
        "dataset": "train",
        "messages": [
            {"role": "user", "content": "<|image|>\nWhat is this?"},
            {"role": "assistant", "content": "A bus."},
        ],
        "images": [str(folder / "a.png")],
    }
    assert source[1]["images"] == [str(folder / "a.png"), str(folder / "sub/b.png")]
    assert source[2]["images"] == []
    assert "3 dialogues" in source.description()


def test_files_with_the_projects_own_tag_are_read_when_declared(folder):
    path = write(folder, [record("one", "<|image|>What?", "a.png")])
    assert LlavaSource(path, file_tag="<|image|>")[0]["messages"][0]["content"] == "<|image|>What?"
    assert (
        LlavaSource(path, file_tag="<|image|>", image_tag="<image>")[0]["messages"][0]["content"]
        == "<image>What?"
    )


@pytest.mark.parametrize(("written", "declared"), [("<|image|>", "<image>"), ("<image>", "<|image|>")])
def test_file_with_the_other_tag_is_refused_by_name(folder, written, declared):
    path = write(folder, [record("one", f"{written}What?", "a.png")])
    with pytest.raises(Owl2Error, match=r"train\.json marks images with .*set file_tag"):
        LlavaSource(path, file_tag=declared)


def test_the_other_tag_in_an_id_marks_no_image(folder):
    plain = {**record("one", "What?"), "id": "<image>"}
    path = write(folder, ["no record", {"conversations": 5}, {"conversations": ["x", {"value": 5}]}, plain])
    assert LlavaSource(path, file_tag="<|image|>")[3]["id"] == "<image>"


def test_unknown_tag_is_refused(folder):
    with pytest.raises(UnknownNameError, match="image tag '<img>'"):
        LlavaSource(write(folder, RECORDS), file_tag="<img>")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record("x", "<image>What?", "none.png"), "missing"),
        (record("x", "What?", "a.png"), "image_count"),
        (record("x", "<image><image>What?", "a.png"), "image_count"),
        (record("x", "<image>or <|image|>?", "a.png"), "wrong_tag"),
        (record("x", "<image>?", 5), "corrupt_record"),
        ({"id": "x"}, "missing_field"),
        ({"id": "x", "conversations": "hello"}, "bad_conversation"),
        ({"id": "x", "conversations": [{"from": "robot", "value": "a"}]}, "bad_conversation"),
        ({"id": "x", "conversations": [{"from": "human"}]}, "bad_conversation"),
        (["not", "an", "object"], "corrupt_record"),
    ],
)
def test_bad_records_are_named_and_the_others_stay_readable(folder, bad, reason):
    source = LlavaSource(write(folder, [RECORDS[0], bad, RECORDS[2]]))
    with pytest.raises(RecordError) as caught:
        source[1]
    assert caught.value.reason == reason
    assert (caught.value.source, caught.value.index) == (str(folder / "train.json"), 1)
    assert [source[index]["id"] for index in (0, 2)] == ["one", "three"]


def test_a_torn_line_is_one_corrupt_record(folder):
    path = write(folder, RECORDS, "train.jsonl")
    path.write_text(path.read_text()[:-20])
    source = LlavaSource(path)
    assert source[1]["id"] == "two"
    with pytest.raises(RecordError, match="corrupt_record"):
        source[2]


def test_a_cut_array_is_refused(folder):
    path = write(folder, RECORDS)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(Owl2Error, match="cut off"):
        LlavaSource(path)


def test_source_travels_to_worker_processes(folder):
    source = pickle.loads(pickle.dumps(LlavaSource(write(folder, RECORDS))))
    assert source[1]["id"] == "two"


def test_mutated_records_are_read_or_rejected_but_never_crash(folder):
    rng, clean = random.Random(0), json.dumps(RECORDS[1]).encode()
    lines = []
    for _ in range(500):
        data = bytearray(clean)
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.choice([c for c in range(256) if c != 10])
        lines.append(bytes(data))
    path = folder / "fuzz.jsonl"
    path.write_bytes(b"\n".join(lines))
    source = LlavaSource(path)
    outcomes = [read(source, index) for index in range(len(source))]
    assert len(outcomes) == 500
    reasons = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert 100 < len(reasons) < 500
    assert set(reasons) <= set(REASONS)


def read(source, index):
    """The example, or the reason it was rejected for."""
    try:
        return source[index]
    except RecordError as error:
        return error.reason


CASES = Path(__file__).parents[1] / "cases"


def outcomes(path, folder, **settings):
    """{id: "read" or the error} of every record of a file."""
    records = json.loads(path.read_text(encoding="utf-8"))
    found = {}
    source = LlavaSource(path, folder, **settings)
    for index, one in enumerate(records):
        outcome = read_or_error(source, index)
        found[one["id"]] = outcome if isinstance(outcome, str) else "read"
    return found


def read_or_error(source, index):
    try:
        return source[index]
    except RecordError as error:
        return str(error)


def test_the_ways_to_say_no_image_make_text_only_samples(folder):
    source = LlavaSource(CASES / "r10.json", folder)
    for index in range(7):
        assert source[index]["images"] == []
        assert [message["content"] for message in source[index]["messages"]] == ["Hi", "Ho"]
    with pytest.raises(RecordError, match=r"r10\.json\[7\]: missing: no image 'none'"):
        source[7]


def test_counts_of_tags_and_images_are_told_in_the_words_of_the_file(folder):
    (folder / "b.png").write_bytes(image(2))
    found = outcomes(CASES / "r11.json", folder)
    assert {identity for identity, outcome in found.items() if outcome == "read"} == {"0", "3", "4"}
    words = {
        "1": "found 0 image tags '<image>' for 1 images",
        "2": "found 1 image tags '<image>' for 2 images",
        "5": "found 2 image tags '<image>' for 1 images",
        "6": "images are read from 'image' and videos from 'video', found 'images'",
        "7": "the image is 7, expected a file name",
        "8": "images are read from 'image' and videos from 'video', found 'images'",
        "9": "in the order of the tags; the record has no 'image'",
        "10": "found 0 image tags '<image>' for 1 images",
        "11": "turn 0 is from 'user'; expected 'human' or 'gpt'; write 'human'",
    }
    for identity, text in words.items():
        assert text in found[identity]
        assert "<|image|>" not in found[identity]


@pytest.mark.parametrize("key", ["images", "img", "picture", "image_path", "Image", "photos", "image_url"])
def test_images_under_another_key_are_never_dropped(folder, key):
    source = LlavaSource(write(folder, [record("x", "What?") | {key: ["a.png"]}]))
    with pytest.raises(RecordError, match=rf"missing_field: images are read from 'image'.*found '{key}'"):
        source[0]


def test_other_keys_and_blank_ones_do_no_harm(folder):
    extra = {"images": [], "model": "", "image_id": 7, "source": "coco"}
    assert LlavaSource(write(folder, [record("x", "What?") | extra]))[0]["images"] == []


@pytest.mark.parametrize("key", ["images", "image", "tool_calls", "video"])
def test_what_a_turn_holds_besides_its_text_is_never_dropped(folder, key):
    one = record("x", "What?")
    one["conversations"][0][key] = ["a.png"]
    with pytest.raises(RecordError, match=f"bad_conversation: turn 0 has '{key}', which is not read"):
        LlavaSource(write(folder, [one]))[0]
    one["conversations"][0][key] = None
    assert LlavaSource(write(folder, [one]))[0]["messages"][0]["content"] == "What?"


def test_a_file_in_the_form_of_chat_messages_is_told_what_to_rename(folder):
    one = {"id": "x", "messages": [{"role": "user", "content": "a"}]}
    with pytest.raises(RecordError, match=r"no 'conversations'.*write 'messages' as 'conversations'"):
        LlavaSource(write(folder, [one]))[0]


def test_a_record_without_an_id_goes_by_its_number(folder):
    source = LlavaSource(write(folder, [record("x", "a"), record(None, "b")]))
    assert [one["id"] for one in source] == ["x", "1"]


def test_images_under_a_second_key_are_never_left_unseen(tmp_path):
    (tmp_path / "a.png").write_bytes(image(1))
    turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
    records = [
        {"image": "a.png", "images": other, "conversations": turns} for other in (["b.png"], ["a.png"], [])
    ]
    (tmp_path / "two.json").write_text(json.dumps(records))
    source = LlavaSource(tmp_path / "two.json")
    with pytest.raises(RecordError, match="found 'images': put those of 'images' there too"):
        source[0]
    assert [len(source[index]["images"]) for index in (1, 2)] == [1, 1]
