"""Shards of WebDataset: every sample is what its members are, or refused; a damaged shard is named."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.reasons import REASONS
from owl2_jax.data.sources.base import RecordError
from owl2_jax.data.sources.webdataset import WebDatasetSource
from tests.data.fuzz import mutated

_FOLDERS = ("", "", "d1/", "d2/", "./", "d1/é/", "d1/" * 40)
_STEMS = ("1", "2", "A", "a", "é日", "x" * 60, "._1", ".hidden", "0 1")
_IMAGES = ("jpg", "JPG", "jpeg", "png", "Webp", "gif", "TIFF", "bmp", "avif", "heic")
_ENDINGS = (*_IMAGES, "txt", "TXT", "Txt", "json", "JSON", "npy", "txt.bak", "seg.png", "")
_CAPTIONS = ("a bus", " a\n", "", "é 日", "a\u2028b", "\ufeff", "<|image|>", "</s>")
_FORMATS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)

Member = tuple[str, bytes]


def cases(rng: np.random.Generator) -> Iterator[Callable[[], None]]:
    """Endless cases; a third of the shards are damaged."""
    with tempfile.TemporaryDirectory() as name:
        while True:
            members = _members(rng)
            data = _tar(members, _FORMATS[int(rng.integers(2))])
            if rng.integers(3) == 0:
                damaged = mutated(data, rng)
                yield lambda d=damaged: check_damaged(d, Path(name))
            else:
                yield lambda m=members, d=data: check(m, d, Path(name))


def _pick(rng: np.random.Generator, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def _members(rng: np.random.Generator) -> list[Member]:
    found: dict[str, bytes] = {}
    for _ in range(int(rng.integers(1, 6))):
        sample = _pick(rng, _FOLDERS) + _pick(rng, _STEMS)
        endings = (
            ["jpg", "txt"] if rng.integers(2) else [_pick(rng, _ENDINGS) for _ in range(rng.integers(1, 4))]
        )
        for ending in endings:
            name = f"{sample}.{ending}" if ending else sample
            found[name] = _content(rng, ending, len(found))
    members = list(found.items())
    if rng.integers(4) == 0:
        rng.shuffle(members)
        members = [(str(name), bytes(data)) for name, data in members]
    return members


def _content(rng: np.random.Generator, ending: str, number: int) -> bytes:
    mark = _pick(rng, (b"", b"", b"\xef\xbb\xbf"))
    if ending.lower() == "txt":
        return mark + _pick(rng, _CAPTIONS).encode()
    if ending.lower() == "json":
        return (
            mark
            + json.dumps(_pick(rng, ({"caption": _pick(rng, _CAPTIONS)}, {"caption": 5}, {}, []))).encode()
        )
    return b"image %d" % number


def _tar(members: list[Member], form: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def _open(data: bytes, folder: Path) -> WebDatasetSource:
    for path in folder.iterdir():
        path.unlink()
    (folder / "0.tar").write_bytes(data)
    return WebDatasetSource(folder / "0.tar", dataset="d")


def check(members: list[Member], data: bytes, folder: Path) -> None:
    """Compares every sample with what its members say."""
    source, right = _open(data, folder), _expected(members)
    assert len(source) == len(right)
    for index, (key, image, caption) in enumerate(right):
        example = _sample(source, index)
        if image is None or caption is None:
            assert example is None, f"{key} was taken, and should be refused"
        else:
            assert example is not None, f"{key} was refused"
            assert example["id"] == f"0/{key}"
            assert (example["images"], example["answer"]) == ([image], caption)


def check_damaged(data: bytes, folder: Path) -> None:
    """A damaged shard is named, or each of its samples is a sample or refused."""
    try:
        source = _open(data, folder)
    except Owl2Error as error:
        refusal = str(error)
    else:
        for index in range(len(source)):
            example = _sample(source, index)
            assert example is None or len(example["images"]) == 1
        return
    assert "0.tar" in refusal


def _sample(source: WebDatasetSource, index: int) -> dict[str, Any] | None:
    try:
        return source[index]
    except RecordError as error:
        refusal = error
    assert refusal.reason in REASONS
    assert f"0.tar[{index}]: {refusal.reason}: " in str(refusal)
    return None


def _expected(members: list[Member]) -> list[tuple[str, bytes | None, str | None]]:
    """(name, image, caption) of every sample, None where there is none or more than one."""
    named = []
    for name, data in members:
        folder, _, base = name.removeprefix("./").rpartition("/")
        stem, _, ending = base.partition(".")
        if stem:
            named.append((f"{folder}/{stem}" if folder else stem, ending.lower(), data))
    samples = []
    for key, group in itertools.groupby(named, key=lambda one: one[0]):
        parts = [(ending, data) for _, ending, data in group]
        images = [data for ending, data in parts if ending in {one.lower() for one in _IMAGES}]
        texts = [data for ending, data in parts if ending == "txt"]
        objects = [data for ending, data in parts if ending == "json"]
        if images or texts or objects:
            samples.append((key, images[0] if len(images) == 1 else None, _caption(texts, objects)))
    return samples


def _caption(texts: list[bytes], objects: list[bytes]) -> str | None:
    if texts:
        return _clean(texts[0].decode("utf-8-sig")) if len(texts) == 1 else None
    if len(objects) != 1:
        return None
    value = json.loads(objects[0].decode("utf-8-sig"))
    caption = value.get("caption") if isinstance(value, dict) else None
    return _clean(caption) if isinstance(caption, str) else None


def _clean(text: str) -> str:
    return text.strip().removeprefix("\ufeff").strip()
