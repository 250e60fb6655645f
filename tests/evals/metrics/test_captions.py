"""Caption scores against the results of pycocoevalcap with its own tokenizer.

The pure-Python scorers are always tested, from the golden tokens. What needs
Java is tested where Java is; without it, the test is that the error says so.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.metrics import captions

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "metrics" / "captions.json").read_text())
WITHOUT_JAVA = ("CIDEr", *captions.BLEU, "ROUGE_L")
CORPORA = sorted(GOLDEN["corpora"])


def by_id(corpus, key):
    return {str(row["image_id"]): row[key] for row in corpus["images"]}


def tokens_of(corpus):
    candidates = {name: [text] for name, text in by_id(corpus, "candidate_tokens").items()}
    return candidates, by_id(corpus, "reference_tokens")


def assert_scores(found, expected, metrics):
    assert found == pytest.approx({m: expected[m] for m in metrics}, abs=1e-6)


@pytest.mark.parametrize("name", CORPORA)
def test_cider_bleu_and_rouge_match_the_golden_scores(name):
    corpus = GOLDEN["corpora"][name]
    scores, images = captions.token_scores(*tokens_of(corpus), WITHOUT_JAVA)
    assert_scores(scores, corpus["scores"], WITHOUT_JAVA)
    for row in corpus["images"]:
        assert_scores(images[str(row["image_id"])], row["scores"], WITHOUT_JAVA)


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.usefixtures("one_meteor_process")
def test_raw_captions_give_the_golden_tokens_and_all_scores(name):
    corpus = GOLDEN["corpora"][name]
    candidates, references = by_id(corpus, "candidate"), by_id(corpus, "references")
    if shutil.which("java") is None:
        with pytest.raises(Owl2Error, match="need Java"):
            captions.caption_scores(candidates, references)
        return
    assert captions.ptb_tokenize(references) == by_id(corpus, "reference_tokens")
    scores, images = captions.caption_scores(candidates, references)
    assert_scores(scores, corpus["scores"], captions.DEFAULT_METRICS)
    for row in corpus["images"]:
        assert_scores(images[str(row["image_id"])], row["scores"], captions.DEFAULT_METRICS)


def test_tokenizer_matches_the_golden_strings():
    cases = GOLDEN["tokenizer"]
    if shutil.which("java") is None:
        with pytest.raises(Owl2Error, match="Install a Java runtime"):
            captions.require_captions()
        return
    found = captions.ptb_tokenize({str(i): [case["raw"]] for i, case in enumerate(cases)})
    assert [tokens for (tokens,) in found.values()] == [case["tokens"] for case in cases]
    # No kind of line break shifts the captions after it.
    broken = captions.ptb_tokenize({"a": ["one\rtwo", "three\u2028four"], "b": ["five\x0bsix"], "c": [""]})
    assert broken == {"a": ["one two", "three four"], "b": ["five six"], "c": [""]}


def test_missing_java_is_said_clearly(monkeypatch):
    monkeypatch.setattr(captions, "which", lambda name: None)
    with pytest.raises(Owl2Error, match="no `java` is on the PATH"):
        captions.caption_scores({"1": "a"}, {"1": ["a"]})


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(captions.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Owl2Error, match=r"owl2_jax\[captions\]"):
        captions.require_captions()


def test_spice_without_its_models_says_what_to_put_where(monkeypatch):
    monkeypatch.setattr(captions, "which", lambda name: "/usr/bin/java")
    monkeypatch.setattr(captions, "_spice_models", lambda: False)
    with pytest.raises(Owl2Error, match=r"never downloaded by us: put stanford-corenlp-3\.6\.0\.jar"):
        captions.require_captions(["SPICE"])


def test_spice_is_scored_in_the_order_of_the_captions_where_its_models_are(monkeypatch):
    class Fake:
        def compute_score(self, references, candidates):
            # The package sorts the images by name.
            return 0.5, [{"All": {"f": float(name)}} for name in sorted(candidates)]

    monkeypatch.setattr(captions, "_spice_models", lambda: True)
    monkeypatch.setattr(captions, "_module", lambda name: type(name, (), {"Spice": Fake}))
    assert captions.spice_is_missing() is None
    texts = {"2": ["a b"], "1": ["a c"]}
    corpus, images = captions.token_scores(texts, texts, ["SPICE"])
    assert corpus == {"SPICE": 0.5}
    assert images == {"2": {"SPICE": 2.0}, "1": {"SPICE": 1.0}}


def test_unknown_metric_and_unequal_ids_are_refused(monkeypatch):
    with pytest.raises(Owl2Error, match="'CIDEr'"):
        captions.require_captions(["CIDER"])
    monkeypatch.setattr(captions, "which", lambda name: "/usr/bin/java")
    with pytest.raises(Owl2Error, match="differ in 1 image ids, first '2'"):
        captions.caption_scores({"1": "a"}, {"1": ["a"], "2": ["b"]})


def test_five_thousand_captions_score_cider_within_a_minute():
    corpus = GOLDEN["corpora"]["main"]
    candidates, references = tokens_of(corpus)
    many = {f"{name}-{copy}": text for copy in range(417) for name, text in candidates.items()}
    human = {f"{name}-{copy}": texts for copy in range(417) for name, texts in references.items()}
    start = time.process_time()
    captions.token_scores(many, human, ["CIDEr"])
    assert len(many) > 5000
    assert time.process_time() - start < 45
