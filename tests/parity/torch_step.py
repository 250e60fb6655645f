"""A training step of mPLUG-Owl2 in PyTorch, to time beside `owl2 bench train`.

    python -m tests.parity.torch_step [--threads 2] [--calls 10]

The model of the released format, eager and in float32, at the shape of `owl2 bench
train`, as the original computes it: scores written out, logits of all positions, text's
and images' branch each for its own tokens, and AdamW as PyTorch makes it by default.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from owl2_jax.core.axes import IGNORE_LABEL
from owl2_jax.model.config import AbstractorConfig, DecoderConfig, Owl2Config, VisionConfig
from owl2_jax.model.layers import ABSTRACTOR_NORM_EPS, sincos_1d, sincos_2d
from owl2_jax.model.presets import preset


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, N * H] to [B, N, T, H]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Heads [B, N, T, H] to [B, T, N * H] over a written-out product."""
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    scores = scores if mask is None else scores + mask
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class VisionLayer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.num_heads
        self.input_layernorm = nn.LayerNorm(width, config.norm_eps)
        self.self_attn = nn.ModuleDict(
            {"query_key_value": nn.Linear(width, 3 * width), "dense": nn.Linear(width, width)}
        )
        self.post_attention_layernorm = nn.LayerNorm(width, config.norm_eps)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, config.mlp_dim), "fc2": nn.Linear(config.mlp_dim, width)}
        )

    def forward(self, x: Tensor) -> Tensor:
        fused = self.self_attn["query_key_value"](self.input_layernorm(x)).unflatten(-1, (self.heads, 3, -1))
        q, k, v = fused.permute(3, 0, 2, 1, 4)
        x = x + self.self_attn["dense"](attend(q, k, v))
        hidden = self.mlp["fc1"](self.post_attention_layernorm(x))
        return x + self.mlp["fc2"](hidden * torch.sigmoid(1.702 * hidden))


class VisionEmbeddings(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.width, config.patch_size
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.position_embedding = nn.Parameter(torch.randn(1, config.num_patches + 1, width))
        self.patch_embed = nn.Conv2d(3, width, patch, patch, bias=False)
        self.pre_layernorm = nn.LayerNorm(width, config.norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], 1)
        return self.pre_layernorm(x + self.position_embedding)


class VisionModel(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_layers))
        self.embeddings = VisionEmbeddings(config)
        self.encoder = nn.ModuleDict({"layers": layers})
        self.post_layernorm = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embeddings(pixels)
        for layer in self.encoder["layers"]:
            x = layer(x)
        return self.post_layernorm(x)


class CrossAttention(nn.Module):
    def __init__(self, vision: VisionConfig, config: AbstractorConfig) -> None:
        super().__init__()
        width, hidden = vision.width, config.mlp_dim
        queries = torch.from_numpy(sincos_1d(range(config.num_queries), width))
        self.heads, self.queries = config.num_heads, queries
        self.keys = torch.cat([queries, torch.from_numpy(sincos_2d(vision.grid_size, width))])
        self.attention = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.norm1 = nn.LayerNorm(width, ABSTRACTOR_NORM_EPS)
        self.normk = nn.LayerNorm(width, ABSTRACTOR_NORM_EPS)
        mlp = {"w1": nn.Linear(width, hidden), "w2": nn.Linear(hidden, width), "w3": nn.Linear(width, hidden)}
        self.output = nn.ModuleDict(
            {
                "out_proj": nn.Linear(width, width),
                "norm2": nn.LayerNorm(width, ABSTRACTOR_NORM_EPS),
                "mlp": nn.ModuleDict(mlp | {"ffn_ln": nn.LayerNorm(hidden, config.norm_eps)}),
            }
        )

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        x = self.norm1(x)
        seen = torch.cat([x, self.normk(image)], 1)
        places = {"query": x + self.queries, "key": seen + self.keys, "value": seen}
        heads = (split_heads(self.attention[name](place), self.heads) for name, place in places.items())
        x = x + self.output["out_proj"](attend(*heads))
        normed, mlp = self.output["norm2"](x), self.output["mlp"]
        return x + mlp["w2"](mlp["ffn_ln"](functional.silu(mlp["w1"](normed)) * mlp["w3"](normed)))


class Abstractor(nn.Module):
    def __init__(self, config: Owl2Config) -> None:
        super().__init__()
        width, out = config.vision.width, config.decoder.width
        layers = (
            nn.ModuleDict({"crossattention": CrossAttention(config.vision, config.abstractor)})
            for _ in range(config.abstractor.num_layers)
        )
        self.query_embeds = nn.Parameter(torch.randn(1, config.abstractor.num_queries, width))
        self.vit_eos = nn.Parameter(torch.randn(1, 1, out))
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.visual_fc = nn.Linear(width, out)

    def forward(self, image: Tensor) -> Tensor:
        x = self.query_embeds.expand(len(image), -1, -1)
        for layer in self.encoder["layers"]:
            x = layer["crossattention"](x, image)
        return torch.cat([self.visual_fc(x), self.vit_eos.expand(len(image), -1, -1)], 1)


class Norm(nn.Module):
    """RMSNorm."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


class Multiway(nn.Module):
    """Two modules of one kind, each for the tokens of its modality, bool[B, T]."""

    def __init__(self, *ways: nn.Module) -> None:
        super().__init__()
        self.multiway = nn.ModuleList(ways)

    def forward(self, x: Tensor, is_image: Tensor) -> Tensor:
        parts = [is_image.eq(bool(way)).nonzero(as_tuple=True) for way in range(2)]
        outputs = [module(x[part]) for module, part in zip(self.multiway, parts, strict=True)]
        result = torch.empty(*x.shape[:2], outputs[0].shape[-1])
        for part, output in zip(parts, outputs, strict=True):
            result[part] = output
        return result


class DecoderLayer(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden = config.width, config.mlp_dim
        keys = config.num_kv_heads * config.head_dim
        for name in ("input_layernorm", "post_attention_layernorm"):
            setattr(self, name, Multiway(Norm(width, config.norm_eps), Norm(width, config.norm_eps)))
        linear = lambda fan_in, fan_out: nn.Linear(fan_in, fan_out, bias=False)
        self.self_attn = nn.ModuleDict(
            {name: Multiway(linear(width, keys), linear(width, keys)) for name in ("k_proj", "v_proj")}
            | {name: linear(width, width) for name in ("q_proj", "o_proj")}
        )
        self.mlp = nn.ModuleDict(
            {"gate_proj": linear(width, hidden), "up_proj": linear(width, hidden)}
            | {"down_proj": linear(hidden, width)}
        )

    def forward(self, x: Tensor, is_image: Tensor, sin: Tensor, cos: Tensor, mask: Tensor) -> Tensor:
        config, attention, mlp = self.config, self.self_attn, self.mlp
        normed = self.input_layernorm(x, is_image)
        q = split_heads(attention["q_proj"](normed), config.num_heads)
        k, v = (
            split_heads(attention[name](normed, is_image), config.num_kv_heads)
            for name in ("k_proj", "v_proj")
        )
        q, k = (part * cos + rotate_half(part) * sin for part in (q, k))
        k, v = (part.repeat_interleave(config.num_heads // config.num_kv_heads, 1) for part in (k, v))
        x = x + attention["o_proj"](attend(q, k, v, mask))
        normed = self.post_attention_layernorm(x, is_image)
        return x + mlp["down_proj"](functional.silu(mlp["gate_proj"](normed)) * mlp["up_proj"](normed))


def rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


class TorchOwl2(nn.Module):
    """The whole model, whose state dict has the released names."""

    def __init__(self, config: Owl2Config) -> None:
        super().__init__()
        decoder = config.decoder
        self.config = config
        self.model = nn.ModuleDict(
            {
                "vision_model": VisionModel(config.vision),
                "visual_abstractor": Abstractor(config),
                "embed_tokens": nn.Embedding(decoder.vocab_size, decoder.width),
                "layers": nn.ModuleList(DecoderLayer(decoder) for _ in range(decoder.num_layers)),
                "norm": Norm(decoder.width, decoder.norm_eps),
            }
        )
        self.lm_head = nn.Linear(decoder.width, decoder.vocab_size, bias=False)

    def forward(self, tokens: Tensor, pixels: Tensor, start: int) -> Tensor:
        """Logits [B, T, V] of tokens [B, T], of which those from `start` on give way to a row's image."""
        parts, (rows, length) = self.model, tokens.shape
        image = parts["visual_abstractor"](parts["vision_model"](pixels))
        end = start + image.shape[1]
        embedded = parts["embed_tokens"](tokens)
        x = torch.cat([embedded[:, :start], image, embedded[:, end:]], 1)
        is_image = torch.zeros(rows, length, dtype=torch.bool)
        is_image[:, start:end] = True
        sin, cos = self._angles(length)
        mask = torch.full((length, length), torch.finfo(x.dtype).min).triu(1)
        for layer in parts["layers"]:
            x = layer(x, is_image, sin, cos, mask)
        return self.lm_head(parts["norm"](x))

    def _angles(self, length: int) -> tuple[Tensor, Tensor]:
        decoder = self.config.decoder
        exponents = torch.arange(0, decoder.head_dim, 2) / decoder.head_dim
        angles = torch.outer(torch.arange(length), decoder.rope_theta**-exponents)
        angles = torch.cat([angles, angles], -1)
        return angles.sin(), angles.cos()


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of what follows each position; labels of -100 count as nothing."""
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE_LABEL
    )


def make_step(config: Owl2Config, rows: int, length: int, start: int = 1) -> tuple[TorchOwl2, object]:
    """A model with random weights, and its training step on one random batch, which returns the loss."""
    torch.manual_seed(0)
    model, vision = TorchOwl2(config), config.vision
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    tokens = torch.randint(config.decoder.vocab_size, (rows, length))
    labels = tokens.clone()
    labels[:, start : start + config.tokens_per_image] = IGNORE_LABEL
    pixels = torch.randn(rows, 3, vision.image_size, vision.image_size)

    def step() -> float:
        optimizer.zero_grad()
        loss = next_token_loss(model(tokens, pixels, start), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return model, step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=10)
    args = parser.parse_args()
    if args.calls < 1:
        parser.error(f"--calls {args.calls}: at least one call is timed")
    torch.set_num_threads(args.threads)
    _, step = make_step(preset("owl2_bench"), rows=4, length=257)
    step()
    wall, cpu = [], []
    for _ in range(args.calls):
        started, used = time.perf_counter(), time.process_time()
        step()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    print(f"seconds_per_step {statistics.median(wall):.3f} cpu_seconds {statistics.median(cpu):.3f}")


if __name__ == "__main__":
    main()
