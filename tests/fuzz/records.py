"""Records of training data and the lines they stand in: read as written, or refused in one line.

What is right is worked out here a second time, in a few lines, from what was written.
"""

from __future__ import annotations

import codecs
import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from owl2_jax.core import json_files
from owl2_jax.core.axes import IGNORE_LABEL, IMAGE_TOKEN
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.prompt_format import PromptFormat
from owl2_jax.data.conversation import encode_dialogue
from owl2_jax.data.reasons import REASONS
from owl2_jax.data.sources import embedded
from owl2_jax.data.sources.base import RecordError
from owl2_jax.data.sources.files import index_json
from owl2_jax.data.sources.llava import LlavaSource
from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.data.tokenizers import open_tokenizer
from owl2_jax.evals.files import read_json_lines
from owl2_jax.offline.prompt_file import read_rows
from owl2_jax.training.logging.metrics import METRICS_FILE, read_metrics
from tests.data.fuzz import mutated

_TAGS = {"<image>": "<|image|>", "<|image|>": "<image>"}
_WORDS = (
    "<image>", "</s>", "<s>", "<unk>", " ", "\n", "\u2028", "\u0085", "\ufeff",
    "ASSISTANT:", " ASSISTANT: ", "USER: ", "What", "is", "this?", "é", "日", "😀", '"', "\\", "{", "]", ",",
    "<video>", "\u00a0", "\u3000",
)  # fmt: skip
_BLANKS = (None, "", " ", [], [""], [None], ["", " "])
_NAMES = (
    "a.png", "b c.png", "sub/c.png", "./a.png", "sub/../a.png", "gone/../a.png", "../out.png", "sub", "A.PNG",
    "b%20c.png", "sub\\c.png", "http://x/a.png", "none", "a\0.png", "x" * 300, "é.png", ".", "..", 7, {},
    True,
)  # fmt: skip
_KEYS = (
    "images",
    "img",
    "image",
    "image_path",
    "Image",
    "model",
    "video",
    "messages",
    "source",
    "image_id",
)
_VALUES = (
    None,
    True,
    0,
    -1,
    1e308,
    "",
    "<image>",
    "\ud800",
    "a" * 300,
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    ["a.png"],
)
_KNOWN, _THERE = (
    {"id", "image", "conversations"},
    {"a.png", "b c.png", "sub/c.png", "./a.png", "sub/../a.png"},
)
# Keys under which an image would be lost without a word.
_IMAGE_STEMS = ("image", "img", "image", "photo")


def cases(rng: np.random.Generator) -> Iterator[Callable[[], None]]:
    """Endless cases over LLaVA's records, their files, lines and images' names."""
    tokenizer = open_tokenizer(embedded.TOKENIZER)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        _write_images(folder)
        while True:
            kind = rng.integers(4)
            if kind < 2:
                record, choices = _record(rng, folder), _choices(rng)
                yield lambda r=record, c=choices: check_record(r, c, folder, tokenizer)
            elif kind == 2:
                data, settings = _damaged(rng, folder), _choices(rng)
                yield lambda d=data, c=settings: check_bytes(d, c, folder)
            else:
                values, text = _lines(rng)
                yield lambda v=values, t=text: check_lines(v, t, Path(name))


# ---- making --------------------------------------------------------------------


def _write_images(folder: Path) -> None:
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b c.png", "sub/c.png", "é.png", "../out.png")):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(folder / name)


def _pick(rng: np.random.Generator, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def _text(rng: np.random.Generator) -> str:
    words = [_pick(rng, _WORDS) for _ in range(int(rng.integers(0, 7)))]
    return "".join([*words, "<|image|>"] if rng.integers(30) == 0 else words)


def _choices(rng: np.random.Generator) -> dict[str, str]:
    return {
        "file_tag": _pick(rng, ("<image>",) * 9 + ("<|image|>",)),
        "image_tag": _pick(rng, tuple(_TAGS)),
        "reading": _pick(rng, ("as_written", "released")),
    }


def _record(rng: np.random.Generator, folder: Path) -> Any:
    """A record that is often sound, and often not quite."""
    roles = [("human", "gpt")[i % 2] for i in range(int(rng.integers(1, 6)))]
    if rng.integers(8) == 0:
        roles.insert(0, _pick(rng, ("gpt", "system", "user")))
    turns: list[Any] = [{"from": role, "value": _text(rng)} for role in roles]
    names = [_pick(rng, ("a.png", "b c.png", "sub/c.png")) for _ in range(int(rng.integers(0, 3)))]
    if rng.integers(2):
        # As many tags as images, somewhere.
        for turn in turns:
            turn["value"] = turn["value"].replace("<|image|>", "").replace("<image>", "")
        for _ in names:
            turn = _pick(rng, turns)
            turn["value"] = (
                f"{turn['value']}<image>{_text(rng).replace('<|image|>', '').replace('<image>', '')}"
            )
    if rng.integers(3) == 0:
        names = [_pick(rng, (*_NAMES, str(folder / "a.png"), str(folder.parent / "out.png"))) for _ in names]
    image = _pick(rng, _BLANKS) if not names else names[0] if len(names) == 1 and rng.integers(2) else names
    record: dict[str, Any] = {"id": "x", "image": image, "conversations": turns}
    if image is None:
        del record["image"]
    if rng.integers(5) == 0:
        record[_pick(rng, _KEYS)] = _pick(rng, _VALUES)
    if rng.integers(8) == 0:
        _pick(rng, turns)[_pick(rng, ("image", "images", "weight", "tool_calls"))] = _pick(rng, _VALUES)
    return _restructured(record, rng) if rng.integers(4) == 0 else record


def _restructured(record: dict[str, Any], rng: np.random.Generator) -> Any:
    """One part removed, doubled or replaced."""
    record = copy.deepcopy(record)
    parts: list[Any] = [record, *record["conversations"], record["conversations"]]
    part = _pick(rng, parts)
    key = _pick(rng, list(part) if isinstance(part, dict) else range(len(part)))
    kind = rng.integers(3)
    if kind == 0:
        del part[key]
    elif kind == 1 and isinstance(part, list):
        part.append(part[key])
    else:
        part[key] = _pick(rng, _VALUES)
    return record


def _damaged(rng: np.random.Generator, folder: Path) -> bytes:
    data = json.dumps(_record(rng, folder), ensure_ascii=bool(rng.integers(2))).encode(
        "utf-8", "surrogatepass"
    )
    return mutated(data, rng).replace(b"\n", b" ")


def _lines(rng: np.random.Generator) -> tuple[list[Any], bytes]:
    """(values, a file with a line for each), with all that may stand between and in them."""
    values, text = [], _pick(rng, ("", "\ufeff"))
    for _ in range(int(rng.integers(1, 6))):
        value = {
            "prompt": _text(rng),
            "images": _pick(rng, ([], None, ["a.png"])),
            "step": int(rng.integers(99)),
        }
        values.append(value)
        text += json.dumps(value, ensure_ascii=bool(rng.integers(2))) + _pick(
            rng, ("\n", "\r\n", " \n", "\n\n \t\n")
        )
    return values, text.encode("utf-8")


# ---- checking ------------------------------------------------------------------


def check_record(record: Any, choices: dict[str, str], folder: Path, tokenizer: Tokenizer) -> None:
    """Reads a record out of a file of one; what is accepted is what was written."""
    path = folder.parent / "records.json"
    data = json.dumps(record).encode()
    form = len(data) % 4
    path.write_bytes(
        (b"[" + data + b"]", data, codecs.BOM_UTF8 + data + b"\r\n  \n", b"\n[\n" + data + b"\n]\n")[form]
    )
    example = _read(path, choices, folder)
    assert example is not None or not _is_sound(record, choices), "a sound record was refused"
    if example is not None:
        _check_example(example, record, choices, folder)
        _check_ids(example["messages"], choices["image_tag"], tokenizer)


def check_bytes(data: bytes, choices: dict[str, str], folder: Path) -> None:
    """Reads a damaged line; where it is taken, it is JSON and means what it says."""
    path = folder.parent / "records.jsonl"
    path.write_bytes(b'{"id": 0}\n' + data + b"\n")
    example = _read(path, choices, folder, 1)
    if example is not None:
        record = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_pairs)
        _check_example(example, record, choices, folder)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a key that stood twice was taken"
    return dict(pairs)


def _read(path: Path, choices: dict[str, str], folder: Path, index: int = 0) -> dict[str, Any] | None:
    """The example, or None where the file or the record is refused as it should be."""
    try:
        source = LlavaSource(path, folder, **choices)
        return source[index] if index < len(source) else None
    except Owl2Error as error:
        refusal = error
    assert str(path) in str(refusal)
    assert "\n" not in str(refusal)
    assert len(str(refusal)) < 1500
    if isinstance(refusal, RecordError):
        assert refusal.reason in REASONS
        assert str(refusal).startswith(f"{path}[{index}]: {refusal.reason}: ")
    return None


def _check_example(
    example: dict[str, Any], record: dict[str, Any], choices: dict[str, str], folder: Path
) -> None:
    file_tag, image_tag = choices["file_tag"], choices["image_tag"]
    turns = record["conversations"]
    if turns[0]["from"] == "gpt":
        turns = turns[1:]
    texts = [turn["value"] for turn in turns]
    if choices["reading"] == "released" and example["images"]:
        texts = [_moved(text, file_tag) for text in texts]
    messages = example["messages"]
    assert [one["content"] for one in messages] == [text.replace(file_tag, image_tag) for text in texts]
    assert [one["role"] for one in messages] == [
        {"human": "user", "gpt": "assistant"}[t["from"]] for t in turns
    ]
    names = record.get("image")
    names = [
        name for name in (names if isinstance(names, list) else [names]) if name is not None and name.strip()
    ]
    assert len(names) == len(example["images"]) == sum(one["content"].count(image_tag) for one in messages)
    for name, path in zip(names, example["images"], strict=True):
        right = os.path.normpath(folder / name)
        assert right.startswith(f"{folder}{os.sep}")
        assert os.path.samefile(right, path)
    if not names:
        lost = [key for key in record if key != "image" and key.lower().rstrip("s") in _IMAGE_STEMS]
        assert not any(record[key] for key in lost if record[key] != "")
    for turn in turns:
        assert not any(turn.get(key) for key in ("image", "images", "tool_calls"))


def _is_sound(record: Any, choices: dict[str, str]) -> bool:
    """Says of the plainest records, and of them alone, that they must be taken."""
    try:
        turns, names = record["conversations"], record.get("image", [])
        names = names if isinstance(names, list) else [names]
        whole = all(set(turn) == {"from", "value"} for turn in turns) and set(record) <= _KNOWN
        in_turn = [turn["from"] for turn in turns] == [("human", "gpt")[i % 2] for i in range(len(turns))]
        whole = whole and all(isinstance(turn["value"], str) for turn in turns)
        tags = [turn["value"].count(choices["file_tag"]) for turn in turns]
        other = any(_TAGS[choices["file_tag"]] in turn["value"] for turn in turns)
        if not (turns and whole and in_turn and set(names) <= _THERE) or other:
            return False
    except (TypeError, KeyError, AttributeError):
        return False
    if choices["reading"] == "released":
        return len(names) == sum(map(bool, tags)) <= 1
    return len(names) == sum(tags)


def _moved(text: str, tag: str) -> str:
    return (tag + "\n" + text.replace(tag, "").strip()).strip() if tag in text else text


def _check_ids(messages: list[dict[str, str]], tag: str, tokenizer: Tokenizer) -> None:
    """Without control tokens every `</s>` is the template's, and answers are learnt letter by letter."""
    try:
        encoded = encode_dialogue(messages, PromptFormat("v1", tag), tokenizer)
    except Owl2Error:
        return  # an empty question
    answers = [one["content"] for one in messages if one["role"] == "assistant" and one["content"]]
    ids, labels = encoded.ids.tolist(), encoded.labels
    assert ids.count(tokenizer.eos_id) == len(answers)
    assert ids.count(tokenizer.bos_id) == 1
    assert ids.count(IMAGE_TOKEN) == sum(one["content"].count(tag) for one in messages)
    learnt = labels[labels != IGNORE_LABEL].tolist()
    if tag not in "".join(answers):
        ends = [place for place, i in enumerate(learnt) if i == tokenizer.eos_id]
        starts = [0, *(end + 1 for end in ends)]
        assert [tokenizer.decode(learnt[a:b]) for a, b in zip(starts, ends, strict=False)] == answers


def check_lines(values: list[Any], data: bytes, folder: Path) -> None:
    """Every reader of lines finds the same values."""
    path = folder / METRICS_FILE
    path.write_bytes(data)
    assert [value for _, value in json_files.json_lines(path)] == values
    assert [json.loads(data[start:end].decode("utf-8-sig")) for start, end in index_json(path)] == values
    assert read_metrics(folder) == values
    assert [row.value for row in read_json_lines(path)] == values
    prompts = folder / "prompts.jsonl"
    prompts.write_bytes(data.replace(b'"step"', b'"seed"'))
    assert [(row["prompt"], row["images"]) for row in read_rows(prompts)] == [
        (value["prompt"], value["images"] or []) for value in values
    ]
