"""Floating-point operations of the model, counted from its sizes, by part and by purpose.

A multiplication and its addition are two. Only matrix products count; norms,
softmax and the like are a percent or two. A compiler cannot be asked: it counts
the body of a scan once.

The model FLOPs of a step are its forward and backward products with causal
attention counted once per pair that is looked at; executed FLOPs add what
rematerialisation computes again and what the attention kernel does besides: the
written-out product computes masked pairs too, a fused kernel leaves them out
and computes scores again in its backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from owl2_jax.model.config import FUSED_TARGETS, Owl2Config
from owl2_jax.model.remat import policy

PARTS: Final = ("vision", "abstractor", "decoder", "head")

# What is computed again in the backward pass, per remat policy: decoder, other towers.
_BLOCK: Final = frozenset({"project", "scores", "context", "out", "hidden"})
_RECOMPUTED: Final[dict[str, tuple[frozenset[str], frozenset[str]]]] = {
    "none": (frozenset(), frozenset()),
    "products": (frozenset({"scores"}), frozenset({"scores", "context"})),
    "dots": (frozenset({"scores", "context"}), frozenset({"scores", "context"})),
    "attention_mlp": (_BLOCK - {"project", "context"}, _BLOCK),
    "attention": (_BLOCK - {"project", "context"}, _BLOCK),
    "context": (_BLOCK - {"context"}, _BLOCK),
    "full": (_BLOCK, _BLOCK),
}
# Backward products per forward product of attention: two; in fused kernels five for two, as they compute the
# scores again, or seven, where the queries' gradient has a kernel of its own.
_WRITTEN_OUT_PASSES: Final = 2.0
_FUSED_PASSES: Final = {"flash": 2.5, "splash": 3.5, "cudnn": 2.5}


@dataclass(frozen=True)
class Work:
    """How much a call computes, over all rows.

    Attributes:
      rows: B.
      length: T, new tokens per row.
      images: M, images that are encoded.
      image_tokens: decoder positions whose image keys and values are
        projected: B * I * (Q + 1) when gathered, B * T when selected. Products that take and put them count
        as elementwise work, as the rotation does.
      logits: positions whose logits are computed.
      keys: cache positions that each new token looks at, or 0 for attention among
        the T tokens.
    """

    rows: int
    length: int
    images: int
    image_tokens: int
    logits: int
    keys: int = 0


@dataclass(frozen=True)
class Product:
    """One matrix product of a forward pass, over all layers and rows.

    Attributes:
      part: one of `PARTS`.
      kind: "project", "scores", "context", "out", "hidden", "down", or "once"
        outside the blocks.
      flops: as executed when nothing is skipped.
      useful: as the model asks for.
      weight: name of the parameter, or None for a product of activations.
    """

    part: str
    kind: str
    flops: float
    useful: float
    weight: str | None


@dataclass(frozen=True)
class Flops:
    """Operations of one call.

    Attributes:
      forward, backward: model FLOPs.
      executed: everything that runs, recomputation included.
    """

    forward: float = 0.0
    backward: float = 0.0
    executed: float = 0.0

    @property
    def model(self) -> float:
        """Forward and backward pass, nothing computed twice."""
        return self.forward + self.backward

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.forward + other.forward, self.backward + other.backward, self.executed + other.executed
        )


def batch_work(
    config: Owl2Config, rows: int, length: int, images: int, images_per_row: int, max_targets: int = 0
) -> Work:
    """Work of a training batch of `rows` x `length` tokens and `images` images.

    Args:
      images_per_row: most images of a row.
      max_targets: positions of a row that get logits; 0 for all.
    """
    gathered = rows * images_per_row * config.tokens_per_image
    return Work(
        rows,
        length,
        images,
        image_tokens=_image_tokens(config, gathered, rows * length),
        logits=rows * min(max_targets or length, length),
    )


def _image_tokens(config: Owl2Config, gathered: int, everywhere: int) -> int:
    if not gathered or not config.decoder.adapted_projections:
        return 0
    return everywhere if config.image_kv == "select" else gathered


def products(config: Owl2Config, work: Work) -> Iterator[Product]:
    """All matrix products of a forward pass."""
    if work.images:
        yield from _vision(config, work.images)
        yield from _abstractor(config, work.images)
    yield from _decoder(config, work)
    decoder = config.decoder
    yield _weighted("head", "once", work.logits, decoder.width, decoder.vocab_size, "decoder/head/kernel")


def _weighted(part: str, kind: str, rows: float, fan_in: int, fan_out: int, weight: str) -> Product:
    flops = 2.0 * rows * fan_in * fan_out
    return Product(part, kind, flops, flops, weight)


def _attention(
    part: str, layers: int, queries: float, keys: float, width: int, useful: float
) -> Iterator[Product]:
    """Scores and context: two products of queries x keys x width."""
    flops = 2.0 * layers * queries * keys * width
    for kind in ("scores", "context"):
        yield Product(part, kind, flops, flops * useful, None)


def _vision(config: Owl2Config, images: int) -> Iterator[Product]:
    vision, name = config.vision, "vision/layers"
    width, layers, tokens = vision.width, vision.num_layers, vision.num_patches + 1
    rows = images * tokens * layers
    pixels = 3 * vision.patch_size**2
    yield _weighted("vision", "once", images * vision.num_patches, pixels, width, "vision/patch_embed/kernel")
    yield _weighted("vision", "project", rows, width, 3 * width, f"{name}/attention/qkv/kernel")
    yield from _attention("vision", layers, images * tokens, tokens, width, 1.0)
    yield _weighted("vision", "out", rows, width, width, f"{name}/attention/out/kernel")
    yield _weighted("vision", "hidden", rows, width, vision.mlp_dim, f"{name}/mlp/fc1/kernel")
    yield _weighted("vision", "down", rows, vision.mlp_dim, width, f"{name}/mlp/fc2/kernel")


def _abstractor(config: Owl2Config, images: int) -> Iterator[Product]:
    abstractor, width, name = config.abstractor, config.vision.width, "abstractor/layers"
    layers, queries, hidden = abstractor.num_layers, abstractor.num_queries, abstractor.mlp_dim
    seen = queries + config.vision.num_patches + 1
    for which, tokens in (("q", queries), ("k", seen), ("v", seen)):
        kernel = f"{name}/attention/{which}/kernel"
        yield _weighted("abstractor", "project", images * tokens * layers, width, width, kernel)
    yield from _attention("abstractor", layers, images * queries, seen, width, 1.0)
    rows = images * queries * layers
    yield _weighted("abstractor", "out", rows, width, width, f"{name}/attention/out/kernel")
    for which in ("w1", "w3"):
        yield _weighted("abstractor", "hidden", rows, width, hidden, f"{name}/mlp/{which}/kernel")
    yield _weighted("abstractor", "down", rows, hidden, width, f"{name}/mlp/w2/kernel")
    yield _weighted(
        "abstractor", "once", images * queries, width, config.decoder.width, "abstractor/project/kernel"
    )


def _decoder(config: Owl2Config, work: Work) -> Iterator[Product]:
    decoder, name = config.decoder, "decoder/layers"
    layers, width = decoder.num_layers, decoder.width
    rows = work.rows * work.length * layers
    inner, kv_width = decoder.num_heads * decoder.head_dim, decoder.num_kv_heads * decoder.head_dim
    image_rows = work.image_tokens * layers
    outputs = {"q": inner, "k": kv_width, "v": kv_width}
    for which, fan_out in outputs.items():
        place = f"{name}/attention/{which}"
        text = place if which == "q" else f"{place}_text"
        yield from _adapted(config, "project", rows, width, fan_out, text)
        if which in decoder.adapted_projections and image_rows:
            yield from _adapted(config, "project", image_rows, width, fan_out, f"{place}_image")
    for fused, tokens in zip(FUSED_TARGETS, (rows, image_rows), strict=True):
        if config.lora is not None and fused in config.lora.targets and tokens:
            place, rank = f"{name}/attention/{fused}", config.lora.rank
            yield _weighted("decoder", "project", tokens, width, rank, f"{place}/lora_a")
            for which, fan_out in outputs.items():
                yield _weighted("decoder", "project", tokens, rank, fan_out, f"{place}/{which}/lora_b")
    keys = work.keys or work.length
    # Query t of T looks at t + 1 keys: (T + 1) / 2 of T on average.
    useful = 1.0 if work.keys else (work.length + 1) / (2 * work.length)
    yield from _attention("decoder", layers, work.rows * work.length, keys, inner, useful)
    yield from _adapted(config, "out", rows, inner, width, f"{name}/attention/out")
    for which in ("gate", "up"):
        yield from _adapted(config, "hidden", rows, width, decoder.mlp_dim, f"{name}/mlp/{which}")
    yield from _adapted(config, "down", rows, decoder.mlp_dim, width, f"{name}/mlp/down")


def _adapted(
    config: Owl2Config, kind: str, rows: float, fan_in: int, fan_out: int, place: str
) -> Iterator[Product]:
    """A map of the decoder's layers, and the two products of its adapter where it has one."""
    yield _weighted("decoder", kind, rows, fan_in, fan_out, f"{place}/kernel")
    if config.lora is not None and place.rpartition("/")[2] in config.lora.targets:
        rank = config.lora.rank
        yield _weighted("decoder", kind, rows, fan_in, rank, f"{place}/lora_a")
        yield _weighted("decoder", kind, rows, rank, fan_out, f"{place}/lora_b")


def is_fused(config: Owl2Config) -> bool:
    """Whether the decoder's attention runs in a fused kernel ("auto" counts as written out).

    What is executed in the towers that see counts as written out in any case.
    """
    return config.attention in _FUSED_PASSES


def forward_flops(config: Owl2Config, work: Work) -> dict[str, Flops]:
    """FLOPs of a forward pass by part."""
    total = {part: Flops() for part in PARTS}
    for product in products(config, work):
        executed = product.useful if is_fused(config) else product.flops
        total[product.part] += Flops(product.useful, 0.0, executed)
    return total


def train_flops(
    config: Owl2Config,
    work: Work,
    trained: Callable[[str], bool] = lambda name: True,
    chunked_head: bool = False,
) -> dict[str, Flops]:
    """FLOPs of forward and backward pass by part.

    Args:
      trained: whether the parameter of a name has a gradient.
      chunked_head: the loss computes logits in chunks, and again for the gradient.

    Raises:
      UnknownNameError: an unknown remat policy.
    """
    policy(config.remat)
    all_products = list(products(config, work))
    reached = _parts_with_gradient(all_products, trained)
    total = {part: Flops() for part in PARTS}
    for product in all_products:
        passes = _backward_passes(product, reached, trained)
        again = reached[product.part] and _recomputed(product, config, chunked_head)
        executed = product.flops * (1 + passes + again)
        if _runs_fused(product, config):
            executed = product.useful * (1 + reached["decoder"] * _FUSED_PASSES[config.attention] + again)
        total[product.part] += Flops(product.useful, product.useful * passes, executed)
    return total


def _parts_with_gradient(all_products: list[Product], trained: Callable[[str], bool]) -> dict[str, bool]:
    """Whether the backward pass goes through a part: it, or what feeds it, is trained."""
    own = dict.fromkeys(PARTS, False)
    for product in all_products:
        own[product.part] |= product.weight is not None and trained(product.weight)
    reached, before = {}, False
    for part in PARTS:
        before = before or own[part] or (part == "decoder" and trained("decoder/embedding"))
        reached[part] = before
    return reached


def _runs_fused(product: Product, config: Owl2Config) -> bool:
    return product.part == "decoder" and product.weight is None and is_fused(config)


def _backward_passes(product: Product, reached: dict[str, bool], trained: Callable[[str], bool]) -> float:
    """Products of the same size in the backward pass: one per operand that needs a gradient."""
    if product.weight is None:
        return _WRITTEN_OUT_PASSES * reached[product.part]
    # Pixels need no gradient, and the head's input only when something below is trained.
    below = reached["decoder"] if product.part == "head" else reached[product.part]
    takes_pixels = product.weight == "vision/patch_embed/kernel"
    return int(below and not takes_pixels) + int(trained(product.weight))


def _recomputed(product: Product, config: Owl2Config, chunked_head: bool) -> bool:
    if product.part == "head":
        return chunked_head
    decoder, others = _RECOMPUTED[config.remat]
    if _runs_fused(product, config):
        # With the context a fused kernel's other results are kept, too.
        return "context" in decoder
    return product.kind in (decoder if product.part == "decoder" else others)


def total(parts: dict[str, Flops]) -> Flops:
    """Sum over the parts."""
    return sum(parts.values(), Flops())


def unit(count: float) -> tuple[str, float]:
    """Name and size of the unit that shows `count` and parts of it with two decimals."""
    for name, size in (("TFLOP", 1e12), ("GFLOP", 1e9)):
        if count >= size:
            return name, size
    return "MFLOP", 1e6
