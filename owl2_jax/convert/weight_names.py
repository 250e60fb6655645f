"""The one table of names: our path, their name, the operation between them.

It is read in both directions. A path with "/layers/" is stacked over layers on
its leading axis, and its name has "{i}" where the layer index goes. The rows
stand in the order of the released checkpoint, which is the order of export.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from owl2_jax.convert.ops import Convolution, Flat, Linear, Op, QkvPart, Same, Shape

LINEAR: Final = Linear()
SAME: Final = Same()
FLAT: Final = Flat()


FUSED: Final = 3  # parts of a tensor that holds queries, keys and values one below the other


@dataclass(frozen=True)
class Rule:
    """One row: leaf `ours` of the parameter tree, their `theirs`, and `op` on one layer's tensor.

    Where their tensor holds `FUSED` of ours one below the other, `part` says which
    of them `op` is about.
    """

    ours: str
    theirs: str
    op: Op
    part: int | None = None

    @property
    def stacked(self) -> bool:
        """Whether it is a rule of every layer."""
        return "{i}" in self.theirs


@dataclass(frozen=True)
class Pair:
    """One tensor of theirs and where it stands in ours.

    Attributes:
      theirs: full name.
      rule: the row it comes from.
      layer: index on the leading axis of our leaf; None when it has none.
      shape: of our tensor, without the layer axis.
    """

    theirs: str
    rule: Rule
    layer: int | None
    shape: Shape

    @property
    def their_shape(self) -> Shape:
        """Of their whole tensor."""
        rows, *rest = self.rule.op.their_shape(self.shape)
        return (rows if self.rule.part is None else FUSED * rows, *rest)

    @property
    def rows(self) -> slice | None:
        """Which rows of their tensor are this one; None for all."""
        if self.rule.part is None:
            return None
        count = self.rule.op.their_shape(self.shape)[0]
        return slice(self.rule.part * count, (self.rule.part + 1) * count)


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}/scale", f"{theirs}.weight", SAME), Rule(f"{ours}/bias", f"{theirs}.bias", SAME)]


def _dense(ours: str, theirs: str, in_axes: int = 1) -> list[Rule]:
    return [
        Rule(f"{ours}/kernel", f"{theirs}.weight", Linear(in_axes)),
        Rule(f"{ours}/bias", f"{theirs}.bias", FLAT),
    ]


def vision_rules(root: str) -> list[Rule]:
    """Rows of the vision encoder; `root` is what their names begin with."""
    ours, theirs = "vision/layers", root + ".vision_model.encoder.layers.{i}"
    embeddings = f"{root}.vision_model.embeddings"
    return [
        Rule("vision/cls_token", f"{embeddings}.cls_token", Same(2)),
        Rule("vision/position_embedding", f"{embeddings}.position_embedding", Same(1)),
        Rule("vision/patch_embed/kernel", f"{embeddings}.patch_embed.weight", Convolution()),
        *_norm("vision/pre_norm", f"{embeddings}.pre_layernorm"),
        *_dense(f"{ours}/attention/qkv", f"{theirs}.self_attn.query_key_value"),
        *_dense(f"{ours}/attention/out", f"{theirs}.self_attn.dense", in_axes=2),
        *_norm(f"{ours}/attention_norm", f"{theirs}.input_layernorm"),
        *_dense(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1"),
        *_dense(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2"),
        *_norm(f"{ours}/mlp_norm", f"{theirs}.post_attention_layernorm"),
        *_norm("vision/post_norm", f"{root}.vision_model.post_layernorm"),
    ]


def abstractor_rules(root: str) -> list[Rule]:
    """Rows of the abstractor, likewise."""
    root += ".visual_abstractor"
    ours, theirs = "abstractor/layers", root + ".encoder.layers.{i}.crossattention"
    return [
        Rule("abstractor/queries", f"{root}.query_embeds", Same(1)),
        Rule("abstractor/end_token", f"{root}.vit_eos", Same(2)),
        *_dense(f"{ours}/attention/q", f"{theirs}.attention.query"),
        *_dense(f"{ours}/attention/k", f"{theirs}.attention.key"),
        *_dense(f"{ours}/attention/v", f"{theirs}.attention.value"),
        *_dense(f"{ours}/attention/out", f"{theirs}.output.out_proj", in_axes=2),
        *_norm(f"{ours}/mlp_norm", f"{theirs}.output.norm2"),
        *_dense(f"{ours}/mlp/w1", f"{theirs}.output.mlp.w1"),
        *_dense(f"{ours}/mlp/w2", f"{theirs}.output.mlp.w2"),
        *_dense(f"{ours}/mlp/w3", f"{theirs}.output.mlp.w3"),
        *_norm(f"{ours}/mlp/norm", f"{theirs}.output.mlp.ffn_ln"),
        *_norm(f"{ours}/query_norm", f"{theirs}.norm1"),
        *_norm(f"{ours}/image_norm", f"{theirs}.normk"),
        *_dense("abstractor/project", f"{root}.visual_fc"),
    ]


# Their names of the four things that have a copy per modality, and ours.
_PER_MODALITY: Final = (
    ("attention/k_{m}/kernel", "self_attn.k_proj", LINEAR),
    ("attention/v_{m}/kernel", "self_attn.v_proj", LINEAR),
    ("attention_norm_{m}/scale", "input_layernorm", SAME),
    ("mlp_norm_{m}/scale", "post_attention_layernorm", SAME),
)
_MODALITIES: Final = (("text", ".multiway.0"), ("image", ".multiway.1"))


def _decoder(modalities: Sequence[tuple[str, str]]) -> list[Rule]:
    """Rows of the decoder; `modalities` pairs our branch with the part of their name that means it."""
    ours, theirs = "decoder/layers", "model.layers.{i}"
    both = [
        Rule(f"{ours}/{path.format(m=branch)}", f"{theirs}.{name}{suffix}.weight", op)
        for path, name, op in _PER_MODALITY
        for branch, suffix in modalities
    ]
    return [
        Rule("decoder/embedding", "model.embed_tokens.weight", SAME),
        Rule(f"{ours}/attention/q/kernel", f"{theirs}.self_attn.q_proj.weight", LINEAR),
        *both[: 2 * len(modalities)],
        Rule(f"{ours}/attention/out/kernel", f"{theirs}.self_attn.o_proj.weight", Linear(2)),
        Rule(f"{ours}/mlp/gate/kernel", f"{theirs}.mlp.gate_proj.weight", LINEAR),
        Rule(f"{ours}/mlp/up/kernel", f"{theirs}.mlp.up_proj.weight", LINEAR),
        Rule(f"{ours}/mlp/down/kernel", f"{theirs}.mlp.down_proj.weight", LINEAR),
        *both[2 * len(modalities) :],
        Rule("decoder/final_norm/scale", "model.norm.weight", SAME),
    ]


def _clip() -> list[Rule]:
    ours, theirs = "vision/layers", "vision_model.encoder.layers.{i}"
    fused = [
        Rule(f"{ours}/attention/qkv/{leaf}", f"{theirs}.self_attn.{name}_proj.{suffix}", QkvPart(part))
        for leaf, suffix in (("kernel", "weight"), ("bias", "bias"))
        for part, name in enumerate("qkv")
    ]
    return [
        Rule("vision/cls_token", "vision_model.embeddings.class_embedding", SAME),
        Rule("vision/position_embedding", "vision_model.embeddings.position_embedding.weight", SAME),
        Rule("vision/patch_embed/kernel", "vision_model.embeddings.patch_embedding.weight", Convolution()),
        *_norm("vision/pre_norm", "vision_model.pre_layrnorm"),  # spelled so in CLIP checkpoints
        *fused,
        *_dense(f"{ours}/attention/out", f"{theirs}.self_attn.out_proj", in_axes=2),
        *_norm(f"{ours}/attention_norm", f"{theirs}.layer_norm1"),
        *_dense(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1"),
        *_dense(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2"),
        *_norm(f"{ours}/mlp_norm", f"{theirs}.layer_norm2"),
        *_norm("vision/post_norm", "vision_model.post_layernorm"),
    ]


HEAD: Final = Rule("decoder/head/kernel", "lm_head.weight", LINEAR)
_EMBEDDING: Final = "decoder/embedding"
# The released format of mPLUG-Owl2.
OWL2: Final = (*_decoder(_MODALITIES), *vision_rules("model"), *abstractor_rules("model"), HEAD)
# LLaMA has one copy of what has one per modality here; both branches read it.
LLAMA: Final = (*_decoder([(branch, "") for branch, _ in _MODALITIES]), HEAD)
# CLIP keeps queries, keys and values apart; three rows fill one leaf of ours.
CLIP: Final = tuple(_clip())


def pairs(rules: Sequence[Rule], shapes: Mapping[str, Shape]) -> Iterator[Pair]:
    """Lists every tensor of theirs, for leaves of `shapes` ({our path: shape, layers stacked})."""
    for rule in rules:
        shape = tuple(shapes[rule.ours])
        if not rule.stacked:
            yield Pair(rule.theirs, rule, None, shape)
            continue
        for layer in range(shape[0]):
            yield Pair(rule.theirs.format(i=layer), rule, layer, shape[1:])


def tied_head(listed: Iterable[Pair], names: Container[str]) -> list[Pair]:
    """The same tensors where head and embedding are one: the one is read for both.

    A file may keep it under either name; with both there, the embedding counts.
    """
    listed = list(listed)
    head, embedding = (_theirs(listed, ours) for ours in (HEAD.ours, _EMBEDDING))
    shared = head if head in names and embedding not in names else embedding
    return [replace(pair, theirs=shared) if pair.theirs in (head, embedding) else pair for pair in listed]


def tied_names(listed: Iterable[Pair]) -> set[str]:
    """Their names of head and embedding, of which a tied checkpoint may have either."""
    listed = list(listed)
    return {_theirs(listed, ours) for ours in (HEAD.ours, _EMBEDDING)}


def _theirs(listed: Iterable[Pair], ours: str) -> str:
    return next(pair.theirs for pair in listed if pair.rule.ours == ours)


def in_their_order(listed: Iterable[Pair]) -> list[Pair]:
    """Sorts tensors as released checkpoints hold them: layer by layer inside each stack of layers."""
    listed = list(listed)
    first: dict[str, int] = {}  # where the stack that a rule belongs to begins
    for position, pair in enumerate(listed):
        first.setdefault(_stack(pair), position)
    order = {id(pair): position for position, pair in enumerate(listed)}
    return sorted(
        listed,
        key=lambda pair: (first[_stack(pair)], -1 if pair.layer is None else pair.layer, order[id(pair)]),
    )


def _stack(pair: Pair) -> str:
    """What tensors of one stack of layers share; the full name for a tensor outside."""
    return pair.theirs if pair.layer is None else pair.rule.theirs.partition("{i}")[0]
