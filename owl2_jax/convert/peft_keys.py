"""Every field of PEFT's `adapter_config.json` for LoRA: read, harmless or refused; see `key_rules`."""

from __future__ import annotations

from typing import Final

from owl2_jax.convert.key_rules import HARMLESS, READ, KeyRule, only, table

_MERGE: Final = "merge the adapter with PEFT (merge_and_unload) and convert the merged model"
# PEFT itself cannot merge these.
_APART: Final = "PEFT cannot merge such an adapter, so it can only be used with PEFT"
_NONE: Final = only(None, {}, [], why=_MERGE)
_NO: Final = only(False, None, why=_MERGE)

PEFT_KEYS: Final[dict[str, KeyRule]] = {
    **table(
        READ,
        "peft_type r lora_alpha lora_dropout target_modules exclude_modules layers_to_transform "
        "layers_pattern use_rslora modules_to_save",
    ),
    # Where the adapter comes from, and how PEFT runs it.
    **table(
        HARMLESS,
        "base_model_name_or_path revision task_type inference_mode auto_mapping peft_version megatron_core "
        "runtime_config qalora_group_size",
    ),
    "bias": only("none", None, why="the decoder here has no biases to train"),
    # The adapter's beginning. Those that change the base as well belong to another base than the one given.
    "init_lora_weights": only(True, False, None, "gaussian", "orthogonal", why=_MERGE),
    **table(
        _NO,
        "fan_in_fan_out use_dora use_bdlora lora_bias ensure_weight_tying merge_weights enable_conv_lora",
    ),
    "use_qalora": only(False, None, why=_APART),
    **table(
        only(None, {}, [], why=_APART),
        "arrow_config alora_invocation_tokens alora_invocation_string layer_replication",
    ),
    **table(
        _NONE,
        "rank_pattern alpha_pattern megatron_config loftq_config eva_config corda_config lora_ga_config "
        "velora_config monteclora_config target_parameters trainable_token_indices enable_lora",
    ),
}
