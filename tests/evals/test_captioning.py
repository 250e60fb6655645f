"""Captioning benchmarks, from their authors' file formats to the final score.

The expected CIDEr is that of captions equal to their only reference: 10, which
tables show as 1000 percent. Scoring needs Java; without it, the test is that a
run refuses to begin and says why.
"""

from __future__ import annotations

import json
import shutil

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals import captioning

pytestmark = pytest.mark.usefixtures("one_meteor_process")


def karpathy(names, split="test", **extra):
    return {
        "images": [
            {
                "filename": name,
                "imgid": index,
                "split": split,
                "sentids": [index],
                "sentences": [{"tokens": text.split(), "raw": text, "imgid": index, "sentid": index}],
                **{key: value(index) for key, value in extra.items()},
            }
            for index, (name, text) in enumerate(names.items())
        ],
        "dataset": "coco",
    }


TEXTS = ["A dog runs in the park.", "Two cats sleep on the bed.", "The boat is red."]


def scored(answer, benchmark, predictions):
    """The summary, or the check that a missing Java is refused at the start."""
    if shutil.which("java") is None:
        with pytest.raises(Owl2Error, match="need Java"):
            benchmark.check()
        return None
    benchmark.check()
    return answer(benchmark, predictions)[1]


def test_coco_scores_the_test_images_and_writes_the_result_format(folder, answer, tmp_path):
    names = {f"COCO_val2014_{n:012d}.jpg": text for n, text in enumerate(TEXTS)}
    data = karpathy(names, filepath=lambda _: "val2014", cocoid=lambda index: 100 + index)
    data["images"].append({**data["images"][0], "split": "train"})
    folder.json("coco/dataset_coco.json", data)
    folder.image("coco/val2014/COCO_val2014_000000000000.jpg")
    benchmark = captioning.CocoCaptions()
    predictions = {str(100 + index): text for index, text in enumerate(TEXTS)}
    summary = scored(answer, benchmark, predictions)
    if summary:
        assert summary.metrics["CIDEr"] == pytest.approx(1000)
        assert summary.metrics["Bleu_4"] == pytest.approx(100, abs=1e-4)
        assert summary.metrics["METEOR"] == pytest.approx(100)
        assert summary.scores == pytest.approx([10, 10, 10])
    question = next(benchmark.questions(folder.root))
    assert question.prompt == (
        "USER: <|image|>Provide a one-sentence caption for the provided image. ASSISTANT: "
    )
    assert (benchmark.decoding.max_new_tokens, benchmark.decoding.min_new_tokens) == (60, 8)
    answered = [captioning.Answered(question, "a dog", None)]
    (path,) = benchmark.export(answered, tmp_path)
    assert json.loads(path.read_text()) == [{"image_id": 100, "caption": "a dog"}]


def test_flickr30k_reads_karpathys_file(folder):
    names = {"1007129816.jpg": TEXTS[0]}
    folder.json("flickr30k/dataset_flickr30k.json", karpathy(names))
    folder.image("flickr30k/flickr30k-images/1007129816.jpg")
    (question,) = captioning.Flickr30k().questions(folder.root)
    assert (question.id, question.answer) == ("1007129816.jpg", [TEXTS[0]])
    assert question.images == (folder.root / "flickr30k/flickr30k-images/1007129816.jpg",)


def test_nocaps_scores_each_domain(folder, answer):
    images = [
        {"id": n, "open_images_id": f"{n:016x}", "file_name": f"{n:016x}.jpg", "coco_url": "", "width": 4,
         "height": 3, "license": 0, "date_captured": "", "domain": "in-domain" if n < 3 else "out-domain"}
        for n in range(6)
    ]  # fmt: skip
    texts = [*TEXTS, "A horse eats grass.", "Some people ride bikes.", "Old trains stand still."]
    annotations = [{"image_id": n, "caption": text, "id": n} for n, text in enumerate(texts)]
    folder.json("nocaps/nocaps_val_4500_captions.json", {"images": images, "annotations": annotations})
    folder.image("nocaps/val/0000000000000000.jpg")
    predictions = {str(n): text for n, text in enumerate(texts[:3])} | dict.fromkeys("345", "zzz yyy xxx www")
    summary = scored(answer, captioning.NoCaps(), predictions)
    if summary:
        assert summary.metrics["CIDEr in-domain"] == pytest.approx(1000)
        assert summary.metrics["CIDEr out-domain"] == pytest.approx(0)
        assert summary.metrics["CIDEr"] == pytest.approx(500)


def test_textcaps_asks_once_for_each_image(folder):
    rows = [
        {"image_id": name, "image_path": f"train_images/{name}.jpg", "caption_id": n, "caption_str": text,
         "reference_strs": TEXTS[:2], "set_name": "val", "image_name": name}
        for n, (name, text) in enumerate([("a", TEXTS[0]), ("a", TEXTS[1]), ("b", TEXTS[0])])
    ]  # fmt: skip
    folder.json("textcaps/TextCaps_0.1_val.json", {"dataset_name": "textcaps", "data": rows})
    folder.image("textvqa/train_images/a.jpg")
    questions = list(captioning.TextCaps().questions(folder.root))
    assert [question.id for question in questions] == ["a", "b"]
    assert questions[0].answer == TEXTS[:2]


def test_a_missing_spice_is_told_with_every_result(monkeypatch):
    monkeypatch.setattr(captioning, "spice_is_missing", lambda: "no models")
    assert captioning.TextCaps().left_out() == {"SPICE": "no models"}
    asked = []

    def scores(answered, metrics):
        asked.append(metrics)
        return {}, {}

    monkeypatch.setattr(captioning, "_corpus_scores", scores)
    captioning.TextCaps().summarise([])
    monkeypatch.setattr(captioning, "spice_is_missing", lambda: None)
    assert captioning.TextCaps().left_out() == {}
    captioning.TextCaps().summarise([])
    assert ["SPICE" in metrics for metrics in asked] == [False, True]


def test_malformed_files_are_named(folder, assert_broken):
    folder.image("coco/val2014/a.jpg")
    folder.json("coco/dataset_coco.json", {"images": [{"split": "test", "cocoid": 1}]})
    assert_broken(captioning.CocoCaptions(), "row 0 has no 'filepath'")
    data = karpathy({"a.jpg": "x"}, filepath=lambda _: "val2014", cocoid=lambda index: index)
    data["images"][0]["sentences"] = []
    folder.json("coco/dataset_coco.json", data)
    assert_broken(captioning.CocoCaptions(), "the list of reference captions is ")
