from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.pipeline import load_tokenizer
from owl2_jax.data_tools.check.page import render, summary
from owl2_jax.data_tools.check.survey import survey
from tests.data import corpora
from tests.data.corpora import IMAGE_SIZE, TOKENS_PER_IMAGE, dialogue, llava

NASTY = "<b>bold</b> & <script>alert(1)</script>"


@pytest.fixture
def datasets(tmp_path):
    names = corpora.write_images(tmp_path, 3)
    records = [dialogue(f"<i>{i}", f"{NASTY} {i}", [names[i % 3]]) for i in range(30)]
    records[7] = dialogue("gone", "x", [f"{NASTY.replace('/', '')}.png"])
    records[8] = records[9]
    text = [dialogue(f"t{i}", "word " * (i + 1), []) for i in range(40)]
    return {
        f"imaged {NASTY}": llava(corpora.write_set(tmp_path, "imaged", records), epochs=1.0),
        "text": llava(corpora.write_set(tmp_path, "text", text), epochs=1.0),
    }


def run(datasets, **changes):
    records = changes.pop("records", 70)
    config = corpora.config(datasets, **changes)
    return survey(config, load_tokenizer(config), IMAGE_SIZE, TOKENS_PER_IMAGE, records=records, shown=6)


def test_counts_are_those_of_the_files(datasets):
    found = run(datasets, row_length=64, window=1)
    imaged, text = found.sets
    assert (imaged.records, text.records, found.round_records) == (30, 40, 70)
    assert 70 <= found.read < 100
    assert imaged.rejected["missing"] >= 1
    assert imaged.duplicates == 1
    assert imaged.usable == imaged.read - imaged.rejected.total() == len(imaged.lengths)
    assert set(imaged.images) == {1}
    assert set(text.images) == {0}
    assert max(text.lengths) > 45


def test_repeats_of_a_small_set_are_no_records(tmp_path):
    texts = [dialogue(f"t{i}", "word " * (i + 1), []) for i in range(17)]
    texts[3] = dialogue("gone", "x", ["gone.png"])
    small = {"text": llava(corpora.write_set(tmp_path, "text", texts))}
    found = run(small, records=400, max_rejected_share=0.1)
    (about,) = found.sets
    assert (about.records, about.read, about.usable, about.rejected.total()) == (17, 17, 16, 1)
    assert (len(about.lengths), len(found.rejected)) == (16, 1)
    assert found.met >= 400
    assert abs(found.unusable / found.met - 1 / 17) < 0.01
    assert summary(found).startswith(
        f"17 records read ({found.met:,} with the repeats of small sets), 1 unus"
    )
    found.check()
    with pytest.raises(Owl2Error, match=r"1 of 17 records are unusable \(5\.\d% of what a run reads"):
        run(small, records=400, max_rejected_share=0.05).check()


def test_long_samples_are_counted_as_rejected_or_cut(datasets):
    rejecting, cutting = run(datasets, row_length=40), run(datasets, row_length=40, long_samples="cut")
    assert rejecting.sets[1].rejected["truncated"] > 5
    assert cutting.sets[1].cut["truncated"] > 5
    assert max(cutting.sets[1].lengths) == 40
    assert any(item.used for item in cutting.rejected)


def test_every_set_is_shown_with_its_longest_sample(datasets):
    found = run(datasets)
    names = [shown.set_name for shown in found.shown]
    assert all(names.count(name) >= 3 for name in datasets)
    longest = [shown for shown in found.shown if shown.set_name == "text"][-1]
    assert len(longest.sample) == max(found.sets[1].lengths)
    assert longest.id == f"t{longest.address.record}"


def test_steps_of_the_epochs_are_told(datasets):
    one, two = (run(datasets, shards=shards, rows=4) for shards in (1, 2))
    assert "The epochs asked for take about" in summary(one)
    assert abs(one.steps_per_round - two.steps_per_round) < 3
    assert "2 make a batch" in summary(two)


def test_too_many_unusable_records_are_an_error(datasets):
    with pytest.raises(Owl2Error, match=r"missing \d"):
        run(datasets).check()
    run(datasets, max_rejected_share=0.5).check()


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_nothing_of_the_data_becomes_markup(datasets):
    html = render(run(datasets), f"Data of {NASTY}")
    tags = Tags()
    tags.feed(html)
    assert not tags.open
    assert "script" not in tags.tags
    shown = run(datasets).shown
    assert tags.tags.count("article") == len(shown)
    assert tags.tags.count("img") == sum(len(one.sample.images) for one in shown) > 0
    assert "i" not in tags.tags


def test_the_page_stands_alone(datasets):
    html = render(run(datasets), "x")
    assert "http" not in html
    assert json.dumps(html)


# ---- what the reading of records does ------------------------------------------


@pytest.fixture
def marked(tmp_path):
    """Six records: images without a tag and with two, control tokens in two texts, a border in one."""
    corpora.write_images(tmp_path, 1)
    records = [
        dialogue("good", "yes", ["0.png"]),
        dialogue("untagged", "yes", []) | {"image": "0.png"},
        dialogue("ends", "one</s>two", []),
        dialogue("starts", "yes", [], question="a <s> b"),
        dialogue("border", "say ASSISTANT: hi", []),
        dialogue("twice", "see <image>", ["0.png"]),
    ]
    return {"m": llava(corpora.write_set(tmp_path, "m", records), epochs=1.0)}


def test_what_the_released_reading_costs_and_does_is_counted_with_an_example(marked):
    found = run(marked, reading="released", max_rejected_share=0.5, records=6, window=1)
    assert found.texts.counts["control"] == 2
    assert found.sets[0].rejected["not_in_released"] >= 2
    control, refused, lost = found.remarks()
    assert control.startswith(
        "2 records hold <s>, </s> or <unk>, which become control ids (data.reading=released)"
    )
    assert "one</s>two" in control or "a <s> b" in control
    assert refused.startswith("data.reading=released refuses 2 records that the released code trains; record")
    assert "the image has no tag" in refused or "have a tag" in refused
    assert lost.startswith("2 records learnt here lose their whole loss in the released code")
    page = render(found, "x")
    assert "which become control ids" in page
    assert "refuses" in page


def test_the_reading_as_written_says_that_control_tokens_stay_text(marked):
    found = run(marked, max_rejected_share=0.5, records=6, window=1)
    (control,) = found.remarks()
    assert control.startswith("2 records hold <s>, </s> or <unk>, which stay text (data.reading=as_written)")


def test_a_set_without_such_texts_has_nothing_to_remark(datasets):
    assert run(datasets).remarks() == []
    (refused,) = run(datasets, reading="released").remarks()
    assert refused == "data.reading=released refuses 0 records that the released code trains."
