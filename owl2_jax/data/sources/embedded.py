"""The corpus inside the package: easy-VQA, drawn images, captions and text-only facts.

The layout of the files is described in `owl2_jax.data.sources.embedded_records`. A
split's text and the images it shows are read once and kept in memory.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.texts import AnyText, FilePath, Name
from owl2_jax.data.messages import ImageTag
from owl2_jax.data.sources.base import (
    DEFAULT_IMAGE_TAG,
    Example,
    Style,
    checked_index,
)
from owl2_jax.data.sources.embedded_records import IMAGES, MANIFEST

FOLDER = Path(__file__).parents[1] / "embedded"
TOKENIZER = FOLDER / "tokenizer.model"


class EmbeddedSource:
    """One split of the embedded corpus.

    Args:
      dataset: "easy_vqa", "drawn_vqa", "captions" or "facts".
      split: "train", or "test" where the dataset has one.
      kinds: Keeps only these kinds of question, in any order; None keeps all.
      prompt: Text around the question, with `{question}` in it; the whole
        request where the split has captions and no questions.
      image_tag: The tag that marks the image in the messages.
      images: False leaves the images and their tags out: the language of
        the split alone.
      folder: Another folder built by `owl2_jax.data_tools.corpus.build`.

    Raises:
      UnknownNameError: The corpus has no such dataset, split or kind.
    """

    def __init__(
        self,
        dataset: Name,
        split: Name = "train",
        *,
        kinds: Sequence[Name] | None = None,
        prompt: AnyText = "{question}",
        image_tag: ImageTag = DEFAULT_IMAGE_TAG,
        images: bool = True,
        folder: FilePath | Path = FOLDER,
    ):
        self.dataset, self.split = dataset, split
        self.images = images
        self.style = Style(dataset, prompt, image_tag)
        self.folder = Path(folder)
        self.name = f"{dataset}-{split}"
        known = manifest(self.folder)["splits"]
        if self.name not in known:
            raise unknown_name("embedded dataset and split", self.name, known)
        for kind in kinds or ():
            if kind not in known[self.name]["kinds"]:
                raise unknown_name(f"kind of {self.name}", kind, known[self.name]["kinds"])
        records = _read_split(self.folder, self.name)
        self._records = [record for record in records if kinds is None or record["kind"] in kinds]
        if any(record["question"] for record in self._records):
            self.style.require_question()

    def __len__(self) -> int:
        return len(self._records)

    @property
    def files(self) -> list[str]:
        """The files that hold the records."""
        return [str(self.folder / MANIFEST)]

    def __getitem__(self, index: int) -> Example:
        record = self._records[checked_index(index, len(self), self.name)]
        image = record["picture"]
        shown = [image] if self.images and image is not None else []
        images = _read_images(self.folder) if shown else []
        return self.style.example(
            record["id"],
            record["question"],
            record["answer"],
            [images[number] for number in shown],
            kind=record["kind"],
            image_keys=[f"embedded/{number}" for number in shown],
        )

    def description(self) -> str:
        """One line: what the split is and how much it holds."""
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kind_counts().items()))
        return f"embedded {self.name}: {len(self)} examples ({kinds})"

    def kind_counts(self) -> dict[str, int]:
        """Number of examples of each kind."""
        return dict(Counter(record["kind"] for record in self._records))

    def answers_by_kind(self) -> dict[str, Counter[str]]:
        """How often each answer occurs, for each kind of question."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for record in self._records:
            counts[record["kind"]][record["answer"]] += 1
        return dict(counts)

    def question_answers(self) -> list[tuple[str, str, str]]:
        """(kind, question, answer) of every example, without images."""
        return [(record["kind"], record["question"], record["answer"]) for record in self._records]


@functools.lru_cache(maxsize=4)
def manifest(folder: Path = FOLDER) -> dict:
    """The manifest of a corpus folder.

    Raises:
      Owl2Error: The folder holds none; it is written last, so the build did not finish.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise Owl2Error(
            f"no {MANIFEST} in {folder}; build it: python -m owl2_jax.data_tools.corpus.build --output DIR"
        )
    return json.loads(path.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=16)
def _read_split(folder: Path, name: str) -> list[dict]:
    stem = name.replace("-", "/")
    # A block as one list: the parser takes half the time that it needs for line after line.
    blocks = [
        json.loads("[" + block.decode().replace("\n", ",") + "]")
        for block in _read_file(folder / f"{name}.array_record")
    ]
    records = itertools.chain.from_iterable(blocks)
    return [{"id": f"{stem}/{number:05d}", **record} for number, record in enumerate(records)]


@functools.lru_cache(maxsize=2)
def _read_images(folder: Path) -> list[bytes]:
    return _read_file(folder / IMAGES)


def _read_file(path: Path) -> list[bytes]:
    # Imported here: Grain takes a second, and most commands need no data.
    import grain

    source = grain.sources.ArrayRecordDataSource(str(path))
    return list(source.__getitems__(range(len(source))))
