from __future__ import annotations

from owl2_jax.core.prompt_format import RELEASED, PromptFormat


def test_a_format_is_read_from_among_other_settings_and_written_under_the_same_names():
    found = PromptFormat.of({"format": 1, "template": "v1", "image_mode": "pad"})
    assert found == PromptFormat("v1", "<|image|>", "pad")
    assert found.as_dict() == {"template": "v1", "image_tag": "<|image|>", "image_mode": "pad"}
    assert PromptFormat.of({}) == RELEASED == PromptFormat("mplug_owl2", "<|image|>", "resize")
    assert found.with_tag("<image>") == PromptFormat("v1", "<image>", "pad")
