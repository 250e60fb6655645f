"""Random LLaMA and CLIP checkpoints, with a forward pass of their own in PyTorch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class LlamaSizes:
    width: int = 32
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 4
    mlp_dim: int = 48
    vocab_size: int = 300
    tied: bool = False


def random(generator: torch.Generator, *shape: int, mean: float = 0.0, scale: float = 0.3) -> torch.Tensor:
    return mean + scale * torch.randn(*shape, generator=generator)


def llama_tensors(sizes: LlamaSizes) -> Tensors:
    g = torch.Generator().manual_seed(1)
    kv = sizes.width // sizes.num_heads * sizes.num_kv_heads
    tensors = {"model.embed_tokens.weight": random(g, sizes.vocab_size, sizes.width, scale=1.0)}
    for layer in range(sizes.num_layers):
        root = f"model.layers.{layer}"
        for name, rows in (("q", sizes.width), ("k", kv), ("v", kv), ("o", sizes.width)):
            tensors[f"{root}.self_attn.{name}_proj.weight"] = random(g, rows, sizes.width)
        tensors[f"{root}.mlp.gate_proj.weight"] = random(g, sizes.mlp_dim, sizes.width)
        tensors[f"{root}.mlp.up_proj.weight"] = random(g, sizes.mlp_dim, sizes.width)
        tensors[f"{root}.mlp.down_proj.weight"] = random(g, sizes.width, sizes.mlp_dim)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{root}.{name}.weight"] = random(g, sizes.width, mean=1.0)
    tensors["model.norm.weight"] = random(g, sizes.width, mean=1.0)
    if not sizes.tied:
        tensors["lm_head.weight"] = random(g, sizes.vocab_size, sizes.width)
    return tensors


def write_llama(directory: Path, sizes: LlamaSizes, tokenizer: bytes, **config: Any) -> Tensors:
    """Writes the checkpoint and returns its tensors."""
    directory.mkdir()
    values = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": sizes.width, "intermediate_size": sizes.mlp_dim,
        "num_hidden_layers": sizes.num_layers, "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_kv_heads, "vocab_size": sizes.vocab_size,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": sizes.tied, **config,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(values))
    (directory / "tokenizer.model").write_bytes(tokenizer)
    tensors = llama_tensors(sizes)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return tensors


def llama_logits(tensors: Tensors, sizes: LlamaSizes, tokens: torch.Tensor) -> torch.Tensor:
    """int64[T] to float32[T, V]."""
    heads, head_dim = sizes.num_heads, sizes.width // sizes.num_heads
    length = len(tokens)
    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, head_dim, 2) / head_dim)
    sin, cos = (torch.cat([f(angles)] * 2, -1)[:, None] for f in (torch.sin, torch.cos))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * tensors[f"{name}.weight"]

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    x = tensors["model.embed_tokens.weight"][tokens]
    for layer in range(sizes.num_layers):
        root = f"model.layers.{layer}"
        h = norm(x, f"{root}.input_layernorm")
        q, k, v = (
            (h @ tensors[f"{root}.self_attn.{n}_proj.weight"].T).view(length, -1, head_dim) for n in "qkv"
        )
        k, v = (t.repeat_interleave(heads // sizes.num_kv_heads, 1) for t in (rotate(k), v))
        scores = torch.einsum("tnh,snh->nts", rotate(q), k) / head_dim**0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
        context = torch.einsum("nts,snh->tnh", scores.softmax(-1), v).reshape(length, -1)
        x = x + context @ tensors[f"{root}.self_attn.o_proj.weight"].T
        h = norm(x, f"{root}.post_attention_layernorm")
        gate, up = (h @ tensors[f"{root}.mlp.{n}_proj.weight"].T for n in ("gate", "up"))
        x = x + (F.silu(gate) * up) @ tensors[f"{root}.mlp.down_proj.weight"].T
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    return norm(x, "model.norm") @ head.T


def qwen_tensors(sizes: LlamaSizes) -> Tensors:
    """The same LLaMA under Qwen's names and with biases that it lacks: [q; k; v] in one projection."""
    llama, g = llama_tensors(sizes), torch.Generator().manual_seed(3)
    tensors = {
        "transformer.wte.weight": llama["model.embed_tokens.weight"],
        "transformer.ln_f.weight": llama["model.norm.weight"],
        "lm_head.weight": llama["lm_head.weight"],
    }
    for layer in range(sizes.num_layers):
        ours, theirs = f"transformer.h.{layer}", f"model.layers.{layer}"
        fused = [llama[f"{theirs}.self_attn.{name}_proj.weight"] for name in "qkv"]
        tensors |= {
            f"{ours}.ln_1.weight": llama[f"{theirs}.input_layernorm.weight"],
            f"{ours}.ln_2.weight": llama[f"{theirs}.post_attention_layernorm.weight"],
            f"{ours}.attn.c_attn.weight": torch.cat(fused),
            f"{ours}.attn.c_attn.bias": random(g, 3 * sizes.width),
            f"{ours}.attn.c_proj.weight": llama[f"{theirs}.self_attn.o_proj.weight"],
            f"{ours}.mlp.w1.weight": llama[f"{theirs}.mlp.up_proj.weight"],
            f"{ours}.mlp.w2.weight": llama[f"{theirs}.mlp.gate_proj.weight"],
            f"{ours}.mlp.c_proj.weight": llama[f"{theirs}.mlp.down_proj.weight"],
        }
    return tensors


def qwen_logits(
    tensors: Tensors, sizes: LlamaSizes, tokens: torch.Tensor, seq_length: int = 64
) -> torch.Tensor:
    """int64[T] to float32[T, V] of a plain Qwen in evaluation, with dynamic NTK and log-n."""
    heads, head_dim, length = sizes.num_heads, sizes.width // sizes.num_heads, len(tokens)
    alpha = max(2 ** math.ceil(math.log2(length / seq_length) + 1) - 1, 1)
    base = 10000 * alpha ** (head_dim / (head_dim - 2))
    angles = torch.arange(length)[:, None] / base ** (torch.arange(0, head_dim, 2) / head_dim)
    sin, cos = (torch.cat([f(angles)] * 2, -1)[:, None] for f in (torch.sin, torch.cos))
    index = torch.arange(1, length + 1)
    grown = torch.where(index > seq_length, index.log() / math.log(seq_length), 1.0)[:, None, None]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * tensors[f"{name}.weight"]

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    x = tensors["transformer.wte.weight"][tokens]
    for layer in range(sizes.num_layers):
        root = f"transformer.h.{layer}"
        weight, bias = (tensors[f"{root}.attn.c_attn.{part}"] for part in ("weight", "bias"))
        fused = norm(x, f"{root}.ln_1") @ weight.T + bias
        q, k, v = (part.view(length, heads, head_dim) for part in fused.chunk(3, -1))
        scores = torch.einsum("tnh,snh->nts", rotate(q) * grown, rotate(k)) / head_dim**0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
        context = torch.einsum("nts,snh->tnh", scores.softmax(-1), v).reshape(length, -1)
        x = x + context @ tensors[f"{root}.attn.c_proj.weight"].T
        h = norm(x, f"{root}.ln_2")
        up, gate = (h @ tensors[f"{root}.mlp.{name}.weight"].T for name in ("w1", "w2"))
        x = x + (up * F.silu(gate)) @ tensors[f"{root}.mlp.c_proj.weight"].T
    return norm(x, "transformer.ln_f") @ tensors["lm_head.weight"].T


def write_qwen(directory: Path, sizes: LlamaSizes, ranks: bytes, **config: Any) -> Tensors:
    """Writes a plain Qwen and returns its tensors."""
    directory.mkdir()
    values = {
        "architectures": ["QWenLMHeadModel"], "model_type": "qwen", "hidden_size": sizes.width,
        "intermediate_size": 2 * sizes.mlp_dim, "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads, "kv_channels": sizes.width // sizes.num_heads,
        "vocab_size": sizes.vocab_size, "max_position_embeddings": 128, "seq_length": 64,
        "layer_norm_epsilon": 1e-6, "no_bias": True, "rotary_emb_base": 10000, "rotary_pct": 1.0,
        "scale_attn_weights": True, "tie_word_embeddings": False, "use_dynamic_ntk": True,
        "use_logn_attn": True, "use_flash_attn": "auto", "bf16": False, "onnx_safe": None,
        "tokenizer_class": "QWenTokenizer", **config,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(values))
    (directory / "qwen.tiktoken").write_bytes(ranks)
    tensors = qwen_tensors(sizes)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return tensors


CLIP_WIDTH, CLIP_HEADS, CLIP_LAYERS, CLIP_MLP, CLIP_PATCH, CLIP_SIZE = 16, 2, 2, 40, 14, 28
CLIP_EPS = 1e-5


def clip_tensors() -> Tensors:
    g = torch.Generator().manual_seed(2)
    width = CLIP_WIDTH
    root = "vision_model"
    tensors = {
        f"{root}.embeddings.class_embedding": random(g, width),
        f"{root}.embeddings.patch_embedding.weight": random(g, width, 3, CLIP_PATCH, CLIP_PATCH, scale=0.05),
        f"{root}.embeddings.position_embedding.weight": random(g, (CLIP_SIZE // CLIP_PATCH) ** 2 + 1, width),
    }

    def add(name: str, *shape: int, mean: float = 0.0) -> None:
        tensors[f"{root}.{name}.weight"] = random(g, *shape, mean=mean)
        tensors[f"{root}.{name}.bias"] = random(g, shape[0])

    for name in ("pre_layrnorm", "post_layernorm"):
        add(name, width, mean=1.0)
    for layer in range(CLIP_LAYERS):
        block = f"encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            add(f"{block}.self_attn.{name}", width, width)
        for name in ("layer_norm1", "layer_norm2"):
            add(f"{block}.{name}", width, mean=1.0)
        add(f"{block}.mlp.fc1", CLIP_MLP, width)
        add(f"{block}.mlp.fc2", width, CLIP_MLP)
    return tensors


def write_clip(directory: Path, whole: bool = True, **config: Any) -> Tensors:
    """Writes the checkpoint (`whole`: with a text tower, too) and returns the encoder's tensors."""
    directory.mkdir()
    vision = {
        "model_type": "clip_vision_model", "hidden_act": "quick_gelu", "hidden_size": CLIP_WIDTH,
        "intermediate_size": CLIP_MLP, "num_hidden_layers": CLIP_LAYERS, "num_attention_heads": CLIP_HEADS,
        "patch_size": CLIP_PATCH, "image_size": CLIP_SIZE, "layer_norm_eps": CLIP_EPS, **config,
    }  # fmt: skip
    tensors = clip_tensors()
    others: Tensors = {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    if whole:
        others |= {
            "logit_scale": torch.tensor(2.6),
            "text_model.embeddings.token_embedding.weight": torch.zeros(9, 4),
        }
        others |= {
            "visual_projection.weight": torch.zeros(4, 16),
            "text_projection.weight": torch.zeros(4, 4),
        }
    values = {"model_type": "clip", "vision_config": vision} if whole else vision
    (directory / "config.json").write_text(json.dumps(values))
    torch.save({**tensors, **others}, directory / "pytorch_model.bin")
    return tensors


def clip_features(tensors: Tensors, pixels: torch.Tensor) -> torch.Tensor:
    """float32[M, 3, H, W] to all tokens after `post_layernorm`, float32[M, P + 1, E]."""
    root = "vision_model"

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = tensors[f"{root}.{name}.weight"], tensors[f"{root}.{name}.bias"]
        return F.layer_norm(x, (CLIP_WIDTH,), weight, bias, CLIP_EPS)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, tensors[f"{root}.{name}.weight"], tensors[f"{root}.{name}.bias"])

    weight = tensors[f"{root}.embeddings.patch_embedding.weight"]
    patches = F.conv2d(pixels, weight, stride=CLIP_PATCH).flatten(2).transpose(1, 2)
    first = tensors[f"{root}.embeddings.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([first, patches], 1) + tensors[f"{root}.embeddings.position_embedding.weight"]
    x = norm(x, "pre_layrnorm")
    for layer in range(CLIP_LAYERS):
        block = f"encoder.layers.{layer}"
        h = norm(x, f"{block}.layer_norm1")
        q, k, v = (
            linear(h, f"{block}.self_attn.{n}_proj").unflatten(-1, (CLIP_HEADS, -1)).transpose(1, 2)
            for n in "qkv"
        )
        context = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + linear(context, f"{block}.self_attn.out_proj")
        h = linear(norm(x, f"{block}.layer_norm2"), f"{block}.mlp.fc1")
        x = x + linear(h * torch.sigmoid(1.702 * h), f"{block}.mlp.fc2")
    return norm(x, "post_layernorm")
