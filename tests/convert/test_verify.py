from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from owl2_jax.convert.golden_file import read_golden
from owl2_jax.convert.to_flax import convert_to_jax
from owl2_jax.convert.to_torch import convert_to_torch
from owl2_jax.convert.verify import compare, verify_checkpoint
from owl2_jax.core.errors import Owl2Error, UnknownNameError
from tests.convert.checkpoints import GOLDEN, copy, rewrite, tensors

# Few groups per model: each wants compilations of its own.
FORWARD = {
    "A": ("vision", "abstractor", "i"), "B": ("iv", "gen_batch"), "F": ("i", "long_batch", "gen_cross"),
}  # fmt: skip
RESULTS = {
    "A": {"vision/attentions", "abstractor/layer_outputs", "i/hidden_states", "i/past_k", "i/logits"},
    "F": {"i/past_k", "i/hidden_states", "long_batch/logits", "long_batch/loss", "gen_cross/step_logits"},
    "B": {"iv/logits", "iv/loss", "gen_batch/tokens", "gen_batch/step_logits"},
}


@pytest.fixture
def subset(tmp_path: Path) -> Callable[..., Path]:
    """Writes some groups of a golden file, gradients left out."""

    def make(model: str, *groups: str, leave_out: tuple[str, ...] = ("grad_norms", "grad_is_none")) -> Path:
        arrays = {
            name: values
            for name, values in read_golden(GOLDEN / model / "golden.npz").items()
            if name.partition("/")[0] in groups and name.partition("/")[2] not in leave_out
        }
        np.savez(tmp_path / "golden.npz", **arrays)
        return tmp_path / "golden.npz"

    return make


@pytest.mark.parametrize("layout", ["A/hf_sharded_bin", "B/hf", "F/hf"])
def test_forward_results_hold_after_import_and_after_export_and_import(
    layout: str, tmp_path: Path, subset
) -> None:
    golden = subset(layout[0], *FORWARD[layout[0]])
    convert_to_jax(GOLDEN / layout, tmp_path / "model")
    convert_to_torch(tmp_path / "model", tmp_path / "hf", max_shard_size="100KB")
    convert_to_jax(tmp_path / "hf", tmp_path / "again")
    for directory in ("model", "again", "hf"):
        found = list(verify_checkpoint(tmp_path / directory, golden))
        assert [str(difference) for difference in found if not difference.within] == []
        names = {difference.name for difference in found}
        assert RESULTS[layout[0]] <= names
        assert len(names) == len(found)


def test_gradients_and_training_steps_hold(subset) -> None:
    golden = subset("B", "iv", "train", leave_out=("logits", "inputs_embeds"))
    found = {d.name: d for d in verify_checkpoint(GOLDEN / "B/hf", golden)}
    assert all(difference.within for difference in found.values())
    assert {"iv/grad_norms", "iv/grad_is_none", "train/losses", "train/final_logits"} <= found.keys()
    assert "train/final_param/lm_head.weight" in found


def test_the_first_layer_that_differs_is_named(tmp_path: Path, subset) -> None:
    golden = subset("A", *FORWARD["A"])
    directory = copy("A/hf", tmp_path / "hf")
    values = tensors(directory)
    values["model.layers.1.self_attn.q_proj.weight"] *= 1.5
    rewrite(directory, values)
    found = {d.name: d for d in verify_checkpoint(directory, golden)}
    assert all(difference.within for name, difference in found.items() if name.startswith("vision/"))
    assert found["i/attentions"].layer == "decoder layer 1"
    assert found["i/hidden_states"].layer == "decoder state 2"  # state 0 is the embedding
    assert found["i/past_k"].layer == "decoder layer 2"
    assert not found["i/logits"].within
    assert str(found["i/attentions"]).startswith("FAIL i/attentions")


def test_measures_of_one_array() -> None:
    expected = np.asarray([0.0, 1.0, -4.0])
    same = compare("i/logits", expected, expected)
    assert (same.absolute, same.relative, same.within) == (0.0, 0.0, True)
    off = compare("i/logits", np.asarray([0.001, 1.5, -4.0]), expected)
    assert (off.absolute, off.relative, off.within, off.layer) == (0.5, 0.5, False, None)
    assert not compare("i/logits", np.asarray([np.nan, 1.0, -4.0]), expected).within
    assert not compare("gen_i/tokens", np.asarray([1]), np.asarray([2])).within
    assert compare("train/final_logits", expected + 1e-3, expected).within
    assert not compare("train/losses", expected + 1e-3, expected).within
    with pytest.raises(Owl2Error, match=r"has shape \[2\], the golden file \[3\]"):
        compare("i/logits", np.zeros(2), expected)


def test_golden_file_of_another_model(subset) -> None:
    for groups in (("vision",), ("i",)):
        with pytest.raises(Owl2Error, match="takes images of 28 pixels; is the golden file of another"):
            list(verify_checkpoint(GOLDEN / "A/hf", subset("B", *groups)))


def test_a_text_in_place_of_a_golden_file_is_told_without_advice_to_trust_it(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("# Readme")
    with pytest.raises(Owl2Error, match=r"a\.npz is no readable \.npz: it holds something else than arr"):
        read_golden(tmp_path / "a.npz")


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **{name.replace("__", "/"): values for name, values in arrays.items()})
    return path


def test_bad_golden_files(tmp_path: Path) -> None:
    ids = np.asarray([[1, 2, 3]])
    bad = {
        "no_results": save(tmp_path / "a.npz", i__input_ids=ids),
        "no_inputs": save(tmp_path / "b.npz", i__logits=np.zeros((1, 3, 128))),
        "unknown": save(tmp_path / "c.npz", i__input_ids=ids, i__logit=np.zeros(3)),
        "no_pixels": save(tmp_path / "d.npz", vision__embeddings=np.zeros(3)),
        "no_image": save(tmp_path / "e.npz", i__input_ids=np.asarray([[1, -200]]), i__logits=ids),
        "missing": tmp_path / "absent.npz",
    }
    (tmp_path / "text.npz").write_text("no archive")
    results = {"i__logits": np.zeros((1, 3, 128))}
    bad |= {
        "text": save(tmp_path / "f.npz", i__input_ids=np.asarray([["a", "b"]]), **results),
        "flat": save(tmp_path / "g.npz", i__input_ids=ids[0], **results),
        "floats": save(tmp_path / "h.npz", i__input_ids=ids * 1.5, **results),
        "labels": save(tmp_path / "i.npz", i__input_ids=ids, i__labels=ids[:, :2], **results),
        "large": save(tmp_path / "j.npz", i__input_ids=ids + 200, **results),
        "negative": save(tmp_path / "k.npz", i__input_ids=ids, i__labels=ids - 5, **results),
        "pixels": save(tmp_path / "l.npz", vision__pixel_values=np.zeros(4), vision__embeddings=np.zeros(3)),
        "generated": save(tmp_path / "n.npz", gen_i__tokens=np.zeros(3, int), i__input_ids=ids),
        "folder": tmp_path / "folder.npz",
        "pointer": tmp_path / "pointer.npz",
        "array": tmp_path / "array.npy",
    }
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "pointer.npz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    np.save(tmp_path / "array.npy", ids)
    expected = {
        "no_results": "holds no results to compare",
        "no_inputs": "has no i/input_ids",
        "unknown": "unknown result of golden group i 'logit'",
        "no_pixels": "has no vision/pixel_values",
        "no_image": "more placeholders than images",
        "missing": "is missing",
        "text": "i/input_ids holds <U1 values, expected numbers",
        "flat": r"i/input_ids is int64\[3\], expected whole numbers in rows",
        "floats": r"i/input_ids is float64\[1, 3\], expected whole numbers",
        "labels": r"i/labels is int64\[1, 2\], expected whole numbers in rows as input_ids, \[1, 3\]",
        "large": "i/input_ids has 201, the model's ids are 0 to 127",
        "negative": "i/labels has -4, the model's ids are 0 to 127",
        "pixels": r"vision/pixel_values has shape \[4\], the model takes images of 28 pixels",
        "generated": r"gen_i/tokens has shape \[3\], expected rows of generated tokens",
        "folder": "is a folder, expected a file",
        "pointer": "git lfs pull",
        "array": r"no readable \.npz",
    }
    for name, message in expected.items():
        with pytest.raises((Owl2Error, UnknownNameError), match=message):
            list(verify_checkpoint(GOLDEN / "A/hf", bad[name]))
    with pytest.raises(Owl2Error, match=r"no readable \.npz"):
        list(verify_checkpoint(GOLDEN / "A/hf", tmp_path / "text.npz"))


def test_damaged_archives_are_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, **{"i/input_ids": np.arange(600).reshape(2, 300), "i/logits": np.zeros(9)})
    content, chance = whole.read_bytes(), np.random.default_rng(0)
    for number in range(300):
        broken = bytearray(content)
        for place in chance.integers(0, len(broken), 4):
            broken[place] = chance.integers(256)
        path = tmp_path / "broken.npz"
        path.write_bytes(bytes(broken[: len(broken) - (number % 3) * 40]))
        refused = ""
        try:
            arrays = read_golden(path)
        except Owl2Error as error:
            refused = str(error)
        assert "\n" not in refused
        assert refused or all(isinstance(values, np.ndarray) for values in arrays.values())
