from __future__ import annotations

from owl2_jax.convert.peft_modules import read_selection

PARTS = ("self_attn.q_proj", "self_attn.k_proj.multiway.0", "self_attn.k_proj.multiway.1", "mlp.up_proj")
NAMES = [f"model.layers.{layer}.{part}" for layer in range(12) for part in PARTS]


def adapted(**values) -> list[str]:
    selection = read_selection(values, "x")
    return [name for name in NAMES if selection.adapts(name)]


def test_names_are_whole_words_from_the_end() -> None:
    assert adapted(target_modules=["q_proj"]) == [name for name in NAMES if name.endswith(".q_proj")]
    assert adapted(target_modules=["proj"]) == []
    assert adapted(target_modules=["multiway.1", "x"]) == [n for n in NAMES if n.endswith("multiway.1")]
    assert adapted(target_modules=["model.layers.3.mlp.up_proj"]) == ["model.layers.3.mlp.up_proj"]


def test_patterns_match_whole_names() -> None:
    assert adapted(target_modules=r".*\.1\..*q_proj") == ["model.layers.1.self_attn.q_proj"]
    assert adapted(target_modules="q_proj") == []


def test_layers_are_counted_in_the_list_they_stand_in() -> None:
    chosen = [f"model.layers.{layer}.self_attn.q_proj" for layer in (1, 10)]
    assert adapted(target_modules=["q_proj"], layers_to_transform=[1, 10]) == chosen
    assert adapted(target_modules=["q_proj"], layers_to_transform=[1, 10], layers_pattern="layers") == chosen
    assert (
        adapted(target_modules=["q_proj"], layers_to_transform=1, layers_pattern=["h", "layers"])
        == chosen[:1]
    )
    assert adapted(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="h") == []
    assert len(adapted(target_modules=["multiway.0"], layers_to_transform=[0])) == 1
    assert len(adapted(target_modules=["q_proj"], layers_to_transform=[])) == 12


def test_excluded_modules_have_none() -> None:
    assert adapted(target_modules=["q_proj", "up_proj"], exclude_modules=["up_proj"]) == adapted(
        target_modules=["q_proj"]
    )
    left = adapted(target_modules=["q_proj"], exclude_modules=r".*layers\.\d\..*")
    assert left == [f"model.layers.{layer}.self_attn.q_proj" for layer in (10, 11)]
