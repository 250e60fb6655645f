"""A value of a run's config that cannot be is refused by its name, before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from owl2_jax.cli.main import main
from owl2_jax.config import RunConfig, load_config, read_config_file
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.sources.registry import make_source
from tests.training.runs import run_config

TINY = "configs/tiny/stage2.py"
OUT_OF_RANGE = (
    ("train.optimizer.clip_norm=-1", "train.optimizer.clip_norm must be above 0, found -1"),
    ("train.optimizer.clip_norm=0", "train.optimizer.clip_norm must be above 0, found 0"),
    ("train.optimizer.b1=2", "train.optimizer.b1 must be at least 0 and below 1, found 2"),
    ("train.optimizer.b2=1.0", "train.optimizer.b2 must be at least 0 and below 1, found 1.0"),
    ("train.optimizer.eps=-1", "train.optimizer.eps must be above 0, found -1"),
    ("train.optimizer.weight_decay=-0.1", "train.optimizer.weight_decay must be at least 0, found -0.1"),
    ("train.schedule.peak_lr=1e400", "train.schedule.peak_lr must be finite and above 0, found inf"),
    ("train.watchdog_seconds=-1", "train.watchdog_seconds must be at least 0, found -1"),
    ("train.loss_chunk=-1", "train.loss_chunk must be at least 0, found -1"),
)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        *OUT_OF_RANGE,
        ("train.seed=1180591620717411303424", "train.seed must be from 0 to 4294967295, found 1180"),
        ("model.vision.num_layers=0", "model.vision.num_layers must be at least 1, found 0"),
        ("model.vision.image_size=-32", "model.vision.image_size must be at least 1, found -32"),
        ("model.remat=ful", "unknown model.remat 'ful'; did you mean 'full'"),
        ("model.attention=spalsh", "unknown model.attention 'spalsh'; did you mean 'splash'"),
        ("model.vision.width=2147483648", "model.vision.width must be at most 1048576, found 2147483648"),
        (
            "model.vision.image_size=32768",
            "model.vision.image_size 32768 has 16777216 patches of 8 pixels; expected at most 262144",
        ),
        ("data.rows=2147483647", "data.rows must be at most 1048576, found 2147483647"),
        ("model.preset=owl2_tny", "unknown preset 'owl2_tny'; did you mean 'owl2_tiny'"),
        ("model=3", "model: expected a group of fields, found 3"),
        ("model.preset=4", "model.preset: expected text, found 4 (int)"),
        (
            "train.optimizer.b2=0.99999999999",
            "b2 must be at least 0 and below 1 in float32, too, found 0.99999",
        ),
        ("train.optimizer.eps=1e-50", "train.optimizer.eps must be above 0 in float32, too, found 1e-50"),
        ("train.schedule.peak_lr=1e39", "peak_lr must be finite in float32 and above 0, found 1e+39"),
        (
            "train.groups.0.schedule={'end_lr': 1}",
            "train.groups[0].schedule: end_lr must lie between 0 and peak_lr 2e-05, found 1.0",
        ),
        ("train.groups.0.pattern=(", "train.groups[0].pattern: expected a regular expression (missing ), un"),
        ("train.groups.0.name=' '", "train.groups[0].name: expected text that is not empty, found ' '"),
        ("train.groups=[]", "train.groups is empty; name at least one"),
        ("train.groups.\u00b2.lr=1", "unknown member of train.groups '\u00b2'. Known: abstractor"),
        ("train.start_from=''", "train.start_from: expected text that is not empty, found ''"),
        ("train.start_from='a\\0b'", "start_from: expected text that can be written as UTF-8, without null"),
        (
            "train.start_from='\\ud800'",
            "expected text that can be written as UTF-8, without null characters, found",
        ),
        (
            "data.tokenizer='a\\nb'",
            "data.tokenizer: expected text on one line, without control characters, fou",
        ),
        (
            "train.seed={[]:1}",
            "train.seed: expected a whole number, from 0 to 4294967295, found '{[]:1}' (str)",
        ),
        (
            f"train.seed={'(' * 10_000}",
            "train.seed: expected a whole number, from 0 to 4294967295, found '((((",
        ),
        ("mesh={'data': -1, 'fsdp': -1}", "mesh.data and mesh.fsdp are both -1; only one can take the rest"),
        ("data.image_tag=<img>", "unknown data.image_tag '<img>'; did you mean '<image>'"),
        ("data.reading=relesed", "unknown data.reading 'relesed'; did you mean 'released'"),
        (
            "data.datasets={3: {'kind': 'embedded'}, '3': {}}",
            "data.datasets has both 3 and '3', which are one",
        ),
        ("train=5", "train: expected a group of fields, found 5"),
        ("train.groups=7", "train.groups: expected a sequence, found 7"),
        ("mesh.data=0", "mesh.data must be at least 1, or -1 for the rest, found 0"),
        ("mesh.data=x", "mesh.data: expected a whole number, at least -1, found 'x'"),
        ("mesh.fdsp=2", "unknown key of mesh 'fdsp'; did you mean 'fsdp'"),
        ("data.rows=null", "data.rows: expected a whole number, at least 1, found 'null'"),
        ("data.datasets=3", "data.datasets: expected a mapping, found 3"),
    ],
)
def test_a_value_of_a_run_that_cannot_be_is_refused_by_its_name(override, message):
    with pytest.raises(Owl2Error) as caught:
        load_config(TINY, [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("path=5", "data.datasets.mine.options.path: expected text or a path, found 5 (int)"),
        ("num_frames=-1", "data.datasets.mine.options.num_frames must be at least 0, found -1"),
        ("path=''", "data.datasets.mine.options.path: expected text that is not empty, found ''"),
        ("file_tag=<img>", "unknown data.datasets.mine.options.file_tag '<img>'; did you mean '<image>'"),
        ("pth=a", "unknown field of data.datasets.mine.options 'pth'; did you mean 'path'"),
    ],
)
def test_options_of_a_set_are_checked_before_it_is_opened(option, message):
    mine = {"kind": "llava", "options": {"path": "one.json"}}
    with pytest.raises(Owl2Error) as caught:
        load_config(TINY, [f"data.datasets.mine={mine!r}", f"data.datasets.mine.options.{option}"])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"answr": "a"}, "unknown field of data.datasets.mine.options.fields 'answr'; did you mean 'answer'"),
        ({"answer": 5}, "data.datasets.mine.options.fields.answer: expected text, found 5"),
        (
            {},
            "data.datasets.mine.options.fields: name either the field 'conversations' or the field 'answer'",
        ),
    ],
)
def test_fields_of_a_table_are_checked_before_it_is_opened(columns, message):
    mine = {"kind": "parquet", "options": {"paths": ["a"], "dataset": "a", "fields": columns}}
    with pytest.raises(Owl2Error) as caught:
        load_config(TINY, [f"data.datasets.mine={mine!r}"])
    assert message in str(caught.value)


def test_large_rates_written_without_a_point_are_rates():
    assert load_config(TINY, ["model.decoder.rope_theta=5000000000"]).model.decoder.rope_theta == 5e9


def test_the_older_second_name_of_max_targets_is_read_and_may_not_differ():
    assert load_config(TINY).data.max_targets == 32
    assert load_config(TINY, ["train.max_targets=32"]) == load_config(TINY)
    with pytest.raises(Owl2Error) as caught:
        load_config(TINY, ["train.max_targets=24"])
    assert str(caught.value) == (
        "train.max_targets 24 is the older name of data.max_targets, which is 32; leave the older out"
    )
    values = read_config_file(TINY)
    del values["data"]["max_targets"]
    assert (
        RunConfig.from_dict({**values, "train": {**values["train"], "max_targets": 9}}).data.max_targets == 9
    )


ONE = Path(__file__).parent / "data" / "cases" / "one.json"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        *OUT_OF_RANGE,
        ("data.datasets.mine.options.num_frames=-1", "mine.options.num_frames must be at least 0, found -1"),
        ("model.decoder.num_layers=0", "model.decoder.num_layers must be at least 1, found 0"),
        ("model.vision.image_size=-32", "model.vision.image_size must be at least 1, found -32"),
        (
            "data.datasets.mine.options.path=5",
            "data.datasets.mine.options.path: expected text or a path, found 5",
        ),
    ],
)
def test_a_run_on_one_record_refuses_a_wrong_value_before_anything_starts(override, words, tmp_path, capsys):
    mine = {"kind": "llava", "options": {"path": str(ONE)}}
    command = [
        "train",
        f"--config={TINY}",
        f"--workdir={tmp_path / 'run'}",
        f"data.datasets={{'mine': {mine!r}}}",
    ]
    assert main([*command, override]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_on_one_record_is_fine_with_its_own_values():
    mine = {"kind": "llava", "options": {"path": str(ONE)}}
    config = load_config(TINY, [f"data.datasets={{'mine': {mine!r}}}"])
    source = make_source(config.data.datasets["mine"].kind, **config.data.datasets["mine"].options)
    assert len(source) == 1


def test_a_config_as_an_earlier_run_stored_it_is_read():
    stored = json.loads(json.dumps(load_config(TINY).to_dict()))
    # Fields that came later are not in it, and whole numbers stand for rates.
    del stored["data"]["reading"]
    stored["train"]["optimizer"] = {"b1": 0, "clip_norm": 1, "weight_decay": 0}
    config = RunConfig.from_dict(stored)
    assert config.data.reading == "as_written"
    assert (config.train.optimizer.b1, config.train.optimizer.clip_norm) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": 10**5000}, "model: expected a group of fields, found a number of 16610 bits (int)"),
        (
            {"model": {"preset": [10**5000]}},
            "model.preset: expected text, found numbers of many digits (list)",
        ),
        ({"model": {10**5000: 1}}, "unknown field of model 'a number of 16610 bits'"),
        ([], "config: expected a group of fields, found [] (list)"),
        ({}, 'config: required model not given; for example {"preset": "owl2_tiny"}'),
    ],
)
def test_values_that_no_message_could_write_out_are_refused_all_the_same(values, message):
    with pytest.raises(Owl2Error) as caught:
        RunConfig.from_dict(values)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("returned", [None, 5, [("train", 1)]])
def test_a_config_file_that_returns_no_config_is_refused(tmp_path, returned):
    file = tmp_path / "config.py"
    file.write_text(f"def get_config():\n    return {returned!r}\n")
    with pytest.raises(Owl2Error, match=r"get_config\(\) should return a ConfigDict or a dict, found"):
        load_config(str(file))


def test_examples_that_make_more_steps_than_can_be_counted_are_refused():
    length = ["train.total_steps=None", f"train.total_examples={2**40}", "train.examples_per_step=8"]
    with pytest.raises(Owl2Error) as caught:
        load_config(TINY, length)
    assert str(caught.value) == (
        f"train.total_examples / train.examples_per_step must be at most 2147483647, found {2**37}"
    )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.optimizer.clip_norm=null", "found 'null' (str); write None, as Python does"),
        ("train.optimizer.clip_norm=none", "found 'none' (str); write None, as Python does"),
        ("data.pack=true", "expected True or False, found 'true' (str); write True"),
    ],
)
def test_words_of_other_languages_are_told_in_python(override, words):
    with pytest.raises(Owl2Error) as error:
        run_config(override)
    assert str(error.value).endswith(words)


@pytest.mark.parametrize("place", ["data", "heldout"])
def test_a_misspelt_set_of_an_override_is_answered_with_the_nearest_name(place):
    heldout = "heldout.datasets={'captions': {'kind': 'embedded', 'options': {'dataset': 'captions'}}}"
    for change in ("weight=2", "options.dataset=facts"):
        message = rf"^{place}\.datasets\.captons: required kind not given; did you mean 'captions'"
        with pytest.raises(Owl2Error, match=message):
            run_config(heldout, f"{place}.datasets.captons.{change}")


def test_an_evaluator_that_the_config_has_not_cannot_be_changed():
    message = r"evaluators has no member to change, give all of it, as evaluators=\[\{\.\.\.\}\]$"
    with pytest.raises(Owl2Error, match=message):
        run_config("evaluators.vqa.every_steps=3")


def test_a_seed_cannot_be_none_and_no_such_hint_is_given():
    with pytest.raises(Owl2Error, match=r"train.seed: expected a whole number, .*found 'null' \(str\)$"):
        run_config("train.seed=null")


def test_what_is_no_python_file_is_not_run_as_one(tmp_path):
    (tmp_path / "README.md").write_text("# A title")
    with pytest.raises(Owl2Error, match=r"README.md is no Python file; expected FILE.py with get_config"):
        read_config_file(f"{tmp_path}/README.md")


def test_a_shared_module_is_that_of_the_folder_also_after_a_change_of_the_working_directory(
    tmp_path, monkeypatch
):
    for number in (1, 2):
        folder = tmp_path / str(number) / "configs"
        folder.mkdir(parents=True)
        (folder / "common.py").write_text(f"NUMBER = {number}\n")
        (folder / "one.py").write_text(
            "from common import NUMBER\ndef get_config():\n    return {'n': NUMBER}\n"
        )
        monkeypatch.chdir(folder.parent)
        assert read_config_file("configs/one.py") == {"n": number}
