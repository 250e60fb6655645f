"""Keys of `config.json`: LLaMA's, Qwen's, CLIP's and the released ones, as transformers 4 and 5 spell them.

Each is read, harmless (with any value, or with the listed ones) or refused;
see `key_rules`.
"""

from __future__ import annotations

from typing import Final

from owl2_jax.convert.key_rules import HARMLESS, OFF, READ, KeyRule, only, table

Rules = dict[str, KeyRule]

# Written into every configuration: where it comes from, what training and
# generation by transformers do, labels of classifiers, dtypes of files.
_ANYWHERE: Final[Rules] = {
    **table(
        HARMLESS,
        "_name_or_path name_or_path architectures transformers_version torch_dtype dtype auto_map "
        "_commit_hash _from_model_config id2label label2id num_labels problem_type "
        "finetuning_task task_specific_params prefix tokenizer_class return_dict use_return_dict "
        "output_attentions output_hidden_states torchscript use_bfloat16 tf_legacy_loss use_cache "
        "initializer_range initializer_factor is_decoder chunk_size_feed_forward bos_token_id "
        "eos_token_id pad_token_id sep_token_id decoder_start_token_id "
        "cross_attention_hidden_size _attn_implementation attn_implementation "
        "_attn_implementation_autoset _attn_implementation_internal _flash_attn_2_enabled "
        "use_flash_attn use_flash_attention use_flash_attention_2 use_memory_efficient_attention "
        "transformers.js_config unsloth_version unsloth_fixed license",
    ),
    # Settings of transformers' own generation.
    **table(
        HARMLESS,
        "max_length min_length max_new_tokens min_new_tokens do_sample early_stopping num_beams "
        "num_beam_groups diversity_penalty temperature top_k top_p min_p typical_p "
        "repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size "
        "bad_words_ids num_return_sequences output_scores return_dict_in_generate "
        "forced_bos_token_id forced_eos_token_id remove_invalid_values "
        "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens penalty_alpha "
        "epsilon_cutoff eta_cutoff renormalize_logits guidance_scale",
    ),
    **table(OFF, "is_encoder_decoder add_cross_attention tie_encoder_decoder per_layer_config"),
    **table(
        only(None, False, {}, why="convert weights that are not quantized"),
        "quantization_config compression_config load_in_8bit load_in_4bit",
    ),
    "pruned_heads": only({}, None, []),
}

_NO_DROPOUT: Final = only(0.0, None, why="the model here drops nothing there while it trains; set it to 0.0")
_UNSCALED: Final = only(
    "default", None, why="position scaling changes every result; take a checkpoint without it"
)

# The group `rope_parameters` or `rope_scaling`.
ROPE: Final[Rules] = {
    "rope_theta": READ,
    "rope_type": _UNSCALED,
    "type": _UNSCALED,
    "factor": only(None, 1.0),
    "attention_factor": only(None, 1.0),
    "partial_rotary_factor": only(1.0, None),
    "original_max_position_embeddings": HARMLESS,
}

LLAMA: Final[Rules] = {
    **_ANYWHERE,
    **table(
        READ,
        "model_type vocab_size hidden_size intermediate_size num_hidden_layers "
        "num_attention_heads num_key_value_heads head_dim rms_norm_eps max_position_embeddings "
        "rope_theta rope_parameters rope_scaling tie_word_embeddings sliding_window layer_types",
    ),
    "hidden_act": only("silu", "swish"),
    **table(OFF, "attention_bias mlp_bias use_sliding_window rope_interleaved qkv_bias use_qk_norm"),
    "partial_rotary_factor": only(1.0, None),
    **table(_NO_DROPOUT, "attention_dropout resid_pdrop embd_pdrop attn_pdrop hidden_dropout"),
    **table(
        HARMLESS,
        "pretraining_tp max_sequence_length model_max_length tokenizer_model_max_length "
        "tokenizer_padding_side padding_side max_window_layers is_llama_config",
    ),
}

QWEN: Final[Rules] = {
    **_ANYWHERE,
    **table(
        READ,
        "model_type vocab_size hidden_size intermediate_size num_hidden_layers "
        "num_attention_heads kv_channels layer_norm_epsilon max_position_embeddings rotary_emb_base "
        "seq_length use_dynamic_ntk use_logn_attn multiway tie_word_embeddings",
    ),
    "no_bias": only(True, why="the output of attention and the MLP have no biases here"),
    "rotary_pct": only(1.0),
    "scale_attn_weights": only(True),
    **table(_NO_DROPOUT, "attn_dropout_prob emb_dropout_prob resid_dropout_prob"),
    **table(OFF, "use_cache_quantization"),
    # Widths of computation, and kernels for other devices.
    **table(HARMLESS, "bf16 fp16 fp32 softmax_in_fp32 use_cache_kernel onnx_safe model_max_length"),
}

_OURS: Final[Rules] = {
    "visual_config": READ,
    # How the released script trained.
    **table(
        HARMLESS,
        "image_aspect_ratio image_grid_pinpoints tune_visual_abstractor freeze_vision_model "
        "visual_abstractor_lr freeze_backbone tune_mm_mlp_adapter freeze_mm_mlp_adapter",
    ),
    **table(OFF, "mm_use_im_start_end mm_use_im_patch_token"),
}
OWL2: Final[Rules] = {**LLAMA, **_OURS}
OWL2_1: Final[Rules] = {**QWEN, **_OURS}

VISUAL: Final[Rules] = table(READ, "visual_model visual_abstractor")

_ENCODER: Final[Rules] = {
    **_ANYWHERE,
    **table(
        READ,
        "hidden_size intermediate_size num_hidden_layers num_attention_heads patch_size "
        "image_size layer_norm_eps",
    ),
    "hidden_act": only("quick_gelu"),
    "num_channels": only(3),
    **table(_NO_DROPOUT, "attention_dropout dropout"),
    **table(HARMLESS, "projection_dim tie_word_embeddings"),  # neither has a part in the encoder
}
VISION: Final[Rules] = {
    **_ENCODER,
    "model_type": only("mplug_owl_vision_model", None),
    **table(only(True), "use_cls_token use_post_layernorm"),
}
CLIP_VISION: Final[Rules] = {**_ENCODER, "model_type": only("clip_vision_model", None)}
CLIP: Final[Rules] = {
    **_ANYWHERE,
    **table(READ, "model_type vision_config vision_config_dict"),
    **table(
        HARMLESS, "text_config text_config_dict projection_dim logit_scale_init_value tie_word_embeddings"
    ),
}

ABSTRACTOR: Final[Rules] = {
    **_ANYWHERE,
    **table(
        READ,
        "hidden_size encoder_hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_learnable_queries grid_size layer_norm_eps",
    ),
    "model_type": only("mplug_owl_visual_abstract", None),
    "add_v2t_pos_emb": OFF,
    "use_cls_token": only(True),
    "attention_probs_dropout_prob": _NO_DROPOUT,
    "tie_word_embeddings": HARMLESS,
}
