from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from owl2_jax.checkpoint.param_files import model_json, read_model_json, restore_params, write_model_directory
from owl2_jax.convert.adapter_names import kernel_rules
from owl2_jax.convert.buffers import buffers
from owl2_jax.convert.hf_config import read_hf_config
from owl2_jax.convert.merge import merge_checkpoint
from owl2_jax.convert.peft import export_peft, import_peft
from owl2_jax.convert.pickled_file import PickledReader
from owl2_jax.convert.pickled_writer import write_pickled
from owl2_jax.convert.safetensors_file import SafetensorsReader
from owl2_jax.convert.to_flax import leaf_shapes
from owl2_jax.convert.to_torch import convert_to_torch
from owl2_jax.convert.weight_names import OWL2, pairs
from owl2_jax.core import tree
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.config import LoraConfig
from owl2_jax.model.lora import split_adapters
from owl2_jax.model.owl2 import abstract_params
from owl2_jax.testing import tiny

LORA = LoraConfig(rank=3, alpha=6.0, dropout=0.05)
CONFIG = tiny.tiny_config().replace(lora=LORA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Model directories `adapted` and `base`, and `peft`, the export of the first."""
    folder = tmp_path_factory.mktemp("peft")
    chance = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: chance.standard_normal(leaf.shape).astype(np.float32), abstract_params(CONFIG)
    )
    write_model_directory(folder / "adapted", model_json(CONFIG.to_dict(), tokenizer=None), params, None)
    base = split_adapters(params)[1]
    base["abstractor"] = jax.tree.map(np.zeros_like, base["abstractor"])
    plain = CONFIG.replace(lora=None).to_dict()
    write_model_directory(folder / "base", model_json(plain, tokenizer=None), base, None)
    export_peft(folder / "adapted", folder / "peft", base="MAGAer13/mplug-owl2-llama2-7b")
    return folder


def assert_same_params(found, expected):
    """Both directories hold the same parameters, bit for bit."""
    found, expected = (tree.flatten(restore_params(path / "params")) for path in (found, expected))
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)


def test_names_are_those_of_the_original_wrapped_by_peft(folder):
    names = SafetensorsReader(folder / "peft" / "adapter_model.safetensors").specs
    assert len(names) == 2 * CONFIG.decoder.num_layers * len(LORA.targets)
    first = "base_model.model.model.layers.0."
    assert names[f"{first}self_attn.q_proj.lora_A.weight"].shape == (3, 32)
    assert names[f"{first}self_attn.k_proj.multiway.0.lora_A.weight"].shape == (3, 32)
    assert names[f"{first}self_attn.v_proj.multiway.1.lora_B.weight"].shape == (16, 3)
    assert names[f"{first}self_attn.o_proj.lora_B.weight"].shape == (32, 3)
    assert names[f"{first}mlp.down_proj.lora_A.weight"].shape == (3, 48)
    config = json.loads((folder / "peft" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["lora_dropout"]) == (
        "LORA",
        3,
        6,
        0.05,
    )
    assert set(config["target_modules"]) == {
        "q_proj", "k_proj.multiway.0", "k_proj.multiway.1", "v_proj.multiway.0", "v_proj.multiway.1",
        "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_their_product_is_ours(folder):
    """B A of theirs, on a kernel of theirs, is A B of ours on a kernel of ours."""
    file = SafetensorsReader(folder / "peft" / "adapter_model.safetensors")
    ours = tree.flatten(restore_params(folder / "adapted" / "params"))
    for rule in kernel_rules(CONFIG).values():
        place, name = rule.ours.removesuffix("/kernel"), rule.theirs.removesuffix(".weight").format(i=1)
        first, second = (file.read(f"base_model.model.{name}.lora_{part}.weight") for part in "AB")
        a, b = ours[f"{place}/lora_a"][1].reshape(-1, 3), ours[f"{place}/lora_b"][1].reshape(3, -1)
        kernel = (a @ b).reshape(ours[rule.ours].shape[1:])
        np.testing.assert_allclose(second @ first, rule.op.to_theirs(kernel), atol=1e-5)


def test_import_gives_the_same_model_and_a_second_export_the_same_bytes(folder, tmp_path):
    import_peft(folder / "base", folder / "peft", tmp_path / "model")
    assert_same_params(tmp_path / "model", folder / "adapted")
    assert read_model_json(tmp_path / "model")["model"] == CONFIG.to_dict()
    export_peft(tmp_path / "model", tmp_path / "peft", base="MAGAer13/mplug-owl2-llama2-7b")
    for file in (folder / "peft").iterdir():
        assert (tmp_path / "peft" / file.name).read_bytes() == file.read_bytes()


def test_trained_abstractor_is_read_by_torch_and_by_us(folder):
    path = folder / "peft" / "non_lora_trainables.bin"
    theirs, ours = torch.load(path, weights_only=True), PickledReader(path)
    assert sorted(theirs) == sorted(ours.specs)
    for name, tensor in theirs.items():
        assert name.startswith("base_model.model.model.visual_abstractor.")
        np.testing.assert_array_equal(tensor.numpy(), ours.read(name))


def test_large_and_empty_shapes_are_written(tmp_path):
    tensors = {"scalar": np.float32(3).reshape(()), "wide": np.ones((1, 70_000), np.float32)}
    write_pickled(tmp_path / "x.bin", tensors)
    found = torch.load(tmp_path / "x.bin", weights_only=True)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "scalar": (),
        "wide": (1, 70_000),
    }


def test_pickled_adapters_and_names_without_the_wrapper_are_read(folder, tmp_path):
    """As older PEFT writes them, and as the original code may have cut them."""
    other = tmp_path / "pickled"
    other.mkdir()
    for name in ("adapter_config.json",):
        (other / name).write_bytes((folder / "peft" / name).read_bytes())
    file = SafetensorsReader(folder / "peft" / "adapter_model.safetensors")
    write_pickled(other / "adapter_model.bin", {name: file.read(name) for name in file.specs})
    beside = torch.load(folder / "peft" / "non_lora_trainables.bin", weights_only=True)
    cut = {name.removeprefix("base_model.model."): tensor for name, tensor in beside.items()}
    torch.save(cut, other / "non_lora_trainables.bin")
    import_peft(folder / "base", other, tmp_path / "model")
    assert_same_params(tmp_path / "model", folder / "adapted")


def test_other_parts_that_trained_go_along(folder, tmp_path):
    def trained(name):
        return name.startswith("abstractor/") or name == "decoder/final_norm/scale"

    export_peft(folder / "adapted", tmp_path / "peft", trained=trained)
    names = PickledReader(tmp_path / "peft" / "non_lora_trainables.bin").specs
    assert "base_model.model.model.norm.weight" in names
    import_peft(folder / "base", tmp_path / "peft", tmp_path / "model")
    assert_same_params(tmp_path / "model", folder / "adapted")


def test_what_the_original_loader_opens_is_there(folder):
    assert {file.name for file in (folder / "peft").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "non_lora_trainables.bin", "config.json",
        "preprocessor_config.json",
    }  # fmt: skip
    config = read_hf_config(json.loads((folder / "peft" / "config.json").read_text()))
    assert config == CONFIG.replace(lora=None)
    # It cuts "base_model." off, then "model." where a name starts with "model.model.".
    names = PickledReader(folder / "peft" / "non_lora_trainables.bin").specs
    cut = {name.removeprefix("base_model.").removeprefix("model.") for name in names}
    assert cut == {
        pair.theirs
        for pair in pairs([r for r in OWL2 if r.ours.startswith("abstractor/")], leaf_shapes(CONFIG))
    }


def test_bad_directories_are_refused(folder, tmp_path):
    with pytest.raises(Owl2Error, match="has no LoRA adapters to export"):
        export_peft(folder / "base", tmp_path / "x")
    with pytest.raises(Owl2Error, match="has LoRA adapters already"):
        import_peft(folder / "adapted", folder / "peft", tmp_path / "x")
    with pytest.raises(Owl2Error, match=r"has no adapter_config.json; expected a directory as PEFT"):
        import_peft(folder / "base", tmp_path, tmp_path / "x")
    for changes, message in (({"peft_type": "IA3"}, "only LORA"), ({"use_dora": True}, "use_dora")):
        other = tmp_path / message.split()[0]
        other.mkdir()
        (other / "adapter_model.safetensors").symlink_to(folder / "peft" / "adapter_model.safetensors")
        config = json.loads((folder / "peft" / "adapter_config.json").read_text())
        (other / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(Owl2Error, match=message):
            import_peft(folder / "base", other, tmp_path / "x")
    assert not (tmp_path / "x").exists()


CASES = Path(__file__).parent / "cases"


def variant(folder, target, tensors=None, **changes):
    """The PEFT directory of `folder` with other settings, and other tensors where some are given."""
    target.mkdir()
    values = {**json.loads((folder / "peft/adapter_config.json").read_text()), **changes}
    (target / "adapter_config.json").write_text(json.dumps(values))
    weights = target / "adapter_model.safetensors"
    if tensors is None:
        weights.symlink_to(folder / "peft/adapter_model.safetensors")
    else:
        save_file({name: value.contiguous() for name, value in tensors.items()}, weights)
    return target


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("peft_pissa", "init_lora_weights is 'pissa'; only True is supported; merge the adapter with PEFT"),
        ("peft_layer_replication", r"layer_replication is .*; only None is supported; PEFT cannot merge"),
        ("peft_qalora", "use_qalora is True; only False is supported; PEFT cannot merge"),
    ],
)
def test_adapters_that_are_not_plain_lora_are_refused_by_name(folder, tmp_path, case, message):
    directory = variant(folder, tmp_path / "peft")
    shutil.copy(CASES / case / "adapter_config.json", directory)
    with pytest.raises(Owl2Error, match=message):
        import_peft(folder / "base", directory, tmp_path / "model")


SUBSETS = [
    {"layers_to_transform": [1]},
    {"layers_to_transform": 1, "layers_pattern": "layers"},
    {"layers_to_transform": [1], "layers_pattern": ["blocks", "layers"]},
    {"target_modules": r"model\.layers\.1\..*(_proj|multiway\.[01])"},
    {"exclude_modules": r"model\.layers\.0\..*"},
]


def test_adapters_of_a_subset_of_layers_add_nothing_elsewhere_and_go_out_as_they_came(folder, tmp_path):
    names = load_file(folder / "peft/adapter_model.safetensors")
    second = {name: value for name, value in names.items() if ".layers.1." in name}
    expected = tree.flatten(restore_params(folder / "adapted/params"))
    for number, changes in enumerate(SUBSETS):
        directory = variant(folder, tmp_path / f"peft{number}", second, **changes)
        config = import_peft(folder / "base", directory, tmp_path / f"model{number}")
        assert config.lora == LORA
        found = tree.flatten(restore_params(tmp_path / f"model{number}" / "params"))
        adapters = [name for name in found if name.endswith(("lora_a", "lora_b"))]
        assert len(adapters) == 2 * len(LORA.targets)
        for name in adapters:
            np.testing.assert_array_equal(found[name][1], expected[name][1])
            assert not found[name][0].any()
    export_peft(tmp_path / "model0", tmp_path / "again")
    again = load_file(tmp_path / "again/adapter_model.safetensors")
    assert again.keys() == second.keys()
    assert all(torch.equal(again[name], second[name]) for name in second)
    assert json.loads((tmp_path / "again/adapter_config.json").read_text())["layers_to_transform"] == [1]


def test_tensors_of_other_layers_than_the_settings_name_are_refused(folder, tmp_path):
    directory = variant(folder, tmp_path / "peft", layers_to_transform=[0])
    with pytest.raises(Owl2Error, match=r"18 not in the model: .*layers\.1\."):
        import_peft(folder / "base", directory, tmp_path / "x")
    names = load_file(folder / "peft/adapter_model.safetensors")
    del names["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"]
    directory = variant(folder, tmp_path / "cut", names)
    said = (
        r"1 missing: model\.layers\.1\.mlp\.up_proj\.lora_A.*said by target_modules, layers_to_transform and"
    )
    with pytest.raises(Owl2Error, match=said):
        import_peft(folder / "base", directory, tmp_path / "x")
    directory = variant(folder, tmp_path / "none", target_modules=["query"])
    with pytest.raises(Owl2Error, match="name no module of the base's decoder layers, which are q_proj, "):
        import_peft(folder / "base", directory, tmp_path / "x")


def test_parts_of_a_multiway_may_be_named_by_number(folder, tmp_path):
    """As the released script names them: by the last word of a module's name."""
    names = ["q_proj", "0", "1", "o_proj", "gate_proj", "up_proj", "down_proj"]
    import_peft(folder / "base", variant(folder, tmp_path / "peft", target_modules=names), tmp_path / "model")
    assert read_model_json(tmp_path / "model")["model"]["lora"]["targets"] == list(LORA.targets)


def test_rank_stabilized_adapters_have_their_scale(folder, tmp_path):
    directory = variant(folder, tmp_path / "peft", use_rslora=True)
    config = import_peft(folder / "base", directory, tmp_path / "model")
    assert config.lora.scale == pytest.approx(6 / 3**0.5)


BAD_TENSORS = [
    (torch.int8, 3, r"adapter_model\.safetensors: .*up_proj\.lora_B\.weight holds int8 numbers"),
    (torch.float64, 1e300, r"up_proj\.lora_B\.weight has values beyond float32"),
    (torch.float32, float("nan"), r"up_proj\.lora_B\.weight holds values that are no finite numbers"),
]


@pytest.mark.parametrize(("kind", "number", "message"), BAD_TENSORS)
def test_numbers_that_no_adapter_holds_are_refused(folder, tmp_path, kind, number, message):
    names = load_file(folder / "peft/adapter_model.safetensors")
    bad = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    names[bad] = torch.full_like(names[bad], number, dtype=kind)
    directory = variant(folder, tmp_path / "peft", names)
    with pytest.raises(Owl2Error, match=message):
        import_peft(folder / "base", directory, tmp_path / "model")
    (directory / "adapter_model.safetensors").unlink()
    torch.save(names, directory / "adapter_model.bin")
    with pytest.raises(Owl2Error, match=message.replace("safetensors", "bin")):
        import_peft(folder / "base", directory, tmp_path / "model")


def test_wrapped_names_are_read_and_two_names_for_one_tensor_refused(folder, tmp_path):
    names = load_file(folder / "peft/adapter_model.safetensors")
    prefixed = {f"module.{name}": value for name, value in names.items()}
    wrapped = variant(folder, tmp_path / "wrapped", prefixed)
    shutil.copy(folder / "peft/non_lora_trainables.bin", wrapped)
    import_peft(folder / "base", wrapped, tmp_path / "model")
    assert_same_params(tmp_path / "model", folder / "adapted")
    first = next(iter(names))
    double = {**names, first.removeprefix("base_model.model."): names[first].clone()}
    with pytest.raises(Owl2Error, match="has two tensors for "):
        import_peft(folder / "base", variant(folder, tmp_path / "double", double), tmp_path / "x")


def test_adapters_go_onto_a_released_directory(folder, tmp_path):
    convert_to_torch(folder / "base", tmp_path / "hf")
    import_peft(tmp_path / "hf", folder / "peft", tmp_path / "model")
    assert_same_params(tmp_path / "model", folder / "adapted")
    with pytest.raises(Owl2Error, match="PyTorch weights are converted with `owl2 convert to-jax`"):
        export_peft(tmp_path / "hf", tmp_path / "x")
    with pytest.raises(Owl2Error, match="put onto their base with `owl2 convert import-lora`"):
        export_peft(folder / "peft", tmp_path / "x")


QWEN = tiny.tiny_config(
    **{"decoder.num_kv_heads": 4, "decoder.adaptive": "qkv", "decoder.qkv_bias": True}
).replace(lora=LoraConfig(rank=3, alpha=6.0, targets=("qkv_text", "qkv_image", "out", "gate", "up", "down")))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """The same for mPLUG-Owl2.1."""
    folder = tmp_path_factory.mktemp("peft_qwen")
    chance = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: chance.standard_normal(leaf.shape).astype(np.float32), abstract_params(QWEN)
    )
    write_model_directory(folder / "adapted", model_json(QWEN.to_dict(), tokenizer=None), params, None)
    plain = QWEN.replace(lora=None).to_dict()
    base = split_adapters(params)[1]
    write_model_directory(folder / "base", model_json(plain, tokenizer=None), base, None)
    export_peft(folder / "adapted", folder / "peft")
    return folder


def test_adapters_of_the_fused_projection_are_one_module_of_the_original(qwen):
    names = SafetensorsReader(qwen / "peft" / "adapter_model.safetensors").specs
    first = "base_model.model.transformer.h.1."
    assert names[f"{first}attn.c_attn.multiway.1.lora_A.weight"].shape == (3, 32)
    assert names[f"{first}attn.c_attn.multiway.1.lora_B.weight"].shape == (96, 3)
    assert names[f"{first}mlp.c_proj.lora_A.weight"].shape == (3, 48)
    assert len(names) == 2 * 2 * 6
    config = json.loads((qwen / "peft" / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == {
        "attn.c_attn.multiway.0", "attn.c_attn.multiway.1", "attn.c_proj", "mlp.w1", "mlp.w2", "mlp.c_proj",
    }  # fmt: skip
    assert json.loads((qwen / "peft" / "config.json").read_text())["model_type"] == "mplug_owl2_1"


def test_their_product_on_the_fused_weight_is_what_merging_adds(qwen, tmp_path):
    merge_checkpoint(qwen / "adapted", tmp_path / "merged")
    convert_to_torch(tmp_path / "merged", tmp_path / "merged_hf")
    convert_to_torch(qwen / "base", tmp_path / "base_hf")
    adapters = SafetensorsReader(qwen / "peft" / "adapter_model.safetensors")
    merged, base = (load_file(tmp_path / name / "model.safetensors") for name in ("merged_hf", "base_hf"))
    for module in ("attn.c_attn.multiway.0", "attn.c_attn.multiway.1", "attn.c_proj", "mlp.w2"):
        name = f"transformer.h.1.{module}"
        first, second = (adapters.read(f"base_model.model.{name}.lora_{part}.weight") for part in "AB")
        change = (merged[f"{name}.weight"] - base[f"{name}.weight"]).numpy()
        np.testing.assert_allclose(change, 2.0 * second @ first, atol=1e-4)


def test_adapters_of_the_fused_projection_come_back_and_go_out_the_same(qwen, tmp_path):
    import_peft(qwen / "base", qwen / "peft", tmp_path / "model")
    assert_same_params(tmp_path / "model", qwen / "adapted")
    found = read_model_json(tmp_path / "model")["model"]
    assert {**found, "lora": None} == {**QWEN.to_dict(), "lora": None}
    export_peft(tmp_path / "model", tmp_path / "peft")
    for file in (qwen / "peft").iterdir():
        assert (tmp_path / "peft" / file.name).read_bytes() == file.read_bytes()


def test_adapters_that_are_no_module_of_the_original_are_refused(tmp_path):
    config = QWEN.replace(lora=LoraConfig(rank=2, targets=("q", "out")))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_params(config))
    write_model_directory(tmp_path / "model", model_json(config.to_dict(), tokenizer=None), params, None)
    with pytest.raises(Owl2Error, match=r"targets has q, which is no module .* qkv_text, qkv_image, out"):
        export_peft(tmp_path / "model", tmp_path / "peft")


# ---- modules_to_save -------------------------------------------------------------


def random_weights(names):
    """Tensors of the released names, as PEFT saves them, of another seed than the model's."""
    chance = np.random.default_rng(1)
    listed = {pair.theirs: pair.their_shape for pair in pairs(OWL2, leaf_shapes(CONFIG.replace(lora=None)))}
    return {
        f"base_model.model.{name}": torch.from_numpy(chance.standard_normal(listed[name]).astype(np.float32))
        for name in names
    }


def test_whole_modules_that_were_saved_replace_those_of_the_base(folder, tmp_path):
    saved = random_weights(["lm_head.weight", "model.embed_tokens.weight"])
    tensors = {**load_file(folder / "peft/adapter_model.safetensors"), **saved}
    directory = variant(folder, tmp_path / "peft", tensors, modules_to_save=["lm_head", "embed_tokens"])
    import_peft(folder / "base", directory, tmp_path / "model")
    found, base, adapted = (
        tree.flatten(restore_params(path / "params"))
        for path in (tmp_path / "model", folder / "base", folder / "adapted")
    )
    head, embedding = (value.numpy() for value in saved.values())
    np.testing.assert_array_equal(found.pop("decoder/head/kernel"), head.T)
    np.testing.assert_array_equal(found.pop("decoder/embedding"), embedding)
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, (base | {n: adapted[n] for n in adapted if "lora_" in n})[name])


def test_saved_modules_of_one_layer_have_no_adapter_and_leave_the_other_layers_alone(folder, tmp_path):
    names = [f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    saved = random_weights(names)
    adapters = load_file(folder / "peft/adapter_model.safetensors")
    tensors = {name: value for name, value in adapters.items() if ".layers.1.mlp." not in name} | saved
    directory = variant(folder, tmp_path / "peft", tensors, modules_to_save=["model.layers.1.mlp"])
    import_peft(folder / "base", directory, tmp_path / "model")
    found, base = (
        tree.flatten(restore_params(path / "params")) for path in (tmp_path / "model", folder / "base")
    )
    for name, weight in zip(("gate", "up", "down"), saved.values(), strict=True):
        kernel = f"decoder/layers/mlp/{name}/kernel"
        np.testing.assert_array_equal(found[kernel][1], weight.numpy().T)
        np.testing.assert_array_equal(found[kernel][0], base[kernel][0])
        assert not found[f"decoder/layers/mlp/{name}/lora_a"][1].any()
        assert found[f"decoder/layers/mlp/{name}/lora_a"][0].any()


def test_fixed_tables_of_a_saved_module_are_compared_and_not_kept(folder, tmp_path):
    rules = [rule for rule in OWL2 if rule.ours.startswith("abstractor/")]
    names = [pair.theirs for pair in pairs(rules, leaf_shapes(CONFIG))]
    table, values = next((n, v) for n, v in buffers(CONFIG) if "visual_abstractor" in n)
    tensors = load_file(folder / "peft/adapter_model.safetensors") | random_weights(names)
    tensors[f"base_model.model.{table}"] = torch.from_numpy(values).half()
    changes = {"modules_to_save": ["visual_abstractor"]}
    directory = variant(folder, tmp_path / "peft", tensors, **changes)
    import_peft(folder / "base", directory, tmp_path / "model")
    query = tree.flatten(restore_params(tmp_path / "model" / "params"))["abstractor/queries"]
    expected = tensors["base_model.model.model.visual_abstractor.query_embeds"]
    np.testing.assert_array_equal(query, expected.numpy()[0])
    tensors[f"base_model.model.{table}"] += 1
    directory = variant(folder, tmp_path / "other", tensors, **changes)
    with pytest.raises(Owl2Error, match=table.replace(".", r"\.")):
        import_peft(folder / "base", directory, tmp_path / "x")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lm_heed"], r"unknown module in modules_to_save of .*peft 'lm_heed'; did you mean 'lm_head'"),
        (
            ["lm_head"],
            r"1 missing: lm_head\.weight; which .* modules_to_save of adapter_config\.json",
        ),
        ([".*head"], r"modules_to_save names '\.\*head'; expected ends of module names, as lm_head"),
        ("lm_head", "modules_to_save should be a list of names"),
    ],
)
def test_modules_to_save_that_are_not_there_are_named(folder, tmp_path, names, message):
    directory = variant(folder, tmp_path / "peft", modules_to_save=names)
    with pytest.raises(Owl2Error, match=message):
        import_peft(folder / "base", directory, tmp_path / "x")
