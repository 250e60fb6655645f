"""Our model's answer to a golden file: every array of every group, under the file's names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import optax

from owl2_jax.convert.formats import format_of, rules_for
from owl2_jax.convert.golden_file import INPUTS, Arrays, Case, check_pixels, pad_alike, read_case
from owl2_jax.convert.golden_pages import PagedRows
from owl2_jax.convert.to_flax import leaf_shapes
from owl2_jax.convert.weight_names import Pair, in_their_order, pairs
from owl2_jax.core.axes import IGNORE_LABEL
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.tree import Params, PyTree, Tree, flatten
from owl2_jax.model import image_positions
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.owl2 import Owl2
from owl2_jax.model.pages import Pages

GENERATED: Final = "gen_"
TRAINED_ON: Final = "iv"  # the case of the five training steps
LEARNING_RATE: Final = 1e-3
# The original's mask is wrong for left padding; its numbers are no aim.
NOT_COMPARED: Final = ("leftpad",)


class GoldenModel:
    """A model with the cases of one golden file.

    Args:
      config: of the model; everything is computed in float32.
      params: nested dict of arrays.
      arrays: the golden file.
    """

    def __init__(self, config: Owl2Config, params: Tree, arrays: Arrays) -> None:
        self.config = config.replace(dtype="float32", param_dtype="float32", remat="none")
        self.params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dict(params))
        self.arrays = arrays
        shapes = leaf_shapes(self.config)
        self.pairs = in_their_order(pairs(rules_for(self.config, shapes), shapes))
        self._cases = {name: read_case(arrays, name, self.config) for name in self._needed_cases()}
        if self._cases:
            self._cases = pad_alike(self._cases, self.config.decoder.vocab_size)

    def answers(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, our value) for every result of the file, group by group from the images on.

        Raises:
          Owl2Error: a result that is not in the format, or whose inputs are
            not in the file.
        """
        for group in self.groups():
            wanted = self._results(group)
            answer = self._answer_group(group, wanted)
            for name in wanted:
                if name not in answer:
                    raise unknown_name(f"result of golden group {group}", name, answer)
                yield f"{group}/{name}", np.asarray(answer[name])

    def groups(self) -> list[str]:
        """Groups with results, in the order in which the model computes them."""
        found = {name.partition("/")[0] for name in self.arrays} - set(NOT_COMPARED)
        rank = {"vision": 0, "abstractor": 1, "train": 4}
        ranks = {group: rank.get(group, 3 if group.startswith(GENERATED) else 2) for group in found}
        return sorted((g for g in found if self._results(g)), key=lambda group: (ranks[group], group))

    def _results(self, group: str) -> list[str]:
        names = [name.partition("/")[2] for name in self.arrays if name.startswith(f"{group}/")]
        return [name for name in names if name not in INPUTS]

    def _needed_cases(self) -> list[str]:
        special = {"vision", "abstractor", "train"}
        names = {self._case_of(group) for group in self.groups() if group not in special}
        return sorted(names | ({TRAINED_ON} if "train" in self.groups() else set()))

    def _case_of(self, group: str) -> str:
        """The case whose inputs a group has: its own, or for "gen_i" those of "i"."""
        own = f"{group}/input_ids" in self.arrays
        return group if own or not group.startswith(GENERATED) else group.removeprefix(GENERATED)

    def _answer_group(self, group: str, wanted: list[str]) -> dict[str, Any]:
        if group == "vision":
            return self._vision()
        if group == "abstractor":
            return self._abstractor()
        if group == "train":
            return self._train(wanted)
        case = self._cases[self._case_of(group)]
        if group.startswith(GENERATED):
            return self._generate(case, self._generated(group, wanted[0]))
        return self._forward(group, case, wanted)

    def _generated(self, group: str, name: str) -> int:
        """Tokens of the answers of a group."""
        shape = self.arrays[f"{group}/{name}"].shape
        if len(shape) < 2 or not 1 <= shape[1] <= self.config.decoder.max_length:
            raise Owl2Error(
                f"golden {group}/{name} has shape {list(shape)}, expected rows of generated tokens"
            )
        return shape[1]

    # Parts.

    def _pixels(self) -> jax.Array:
        if "vision/pixel_values" not in self.arrays:
            raise Owl2Error("the golden file has no vision/pixel_values, which its results need")
        pixels = self.arrays["vision/pixel_values"]
        check_pixels(pixels[None] if pixels.ndim == 5 else pixels, "vision/pixel_values", self.config)
        return jnp.asarray(pixels.transpose(0, 2, 3, 1))

    def _vision(self) -> dict[str, Any]:
        output, seen = self._apply(_encode, sow=True)(self.params, self._pixels())
        seen = seen["vision"]
        layers = seen["layers"]
        norm = self.params["vision"]["post_norm"]
        return {
            "embeddings": seen["embedded"][0],
            "hidden_states": jnp.concatenate([seen["embedded"][0][None], layers["hidden"][0]]),
            "attentions": layers["attention"]["attention"][0],
            "last_hidden_state": output,
            # The original norms the class token a second time for its pooled output.
            "pooler_output": _layer_norm(output[:, 0], norm, self.config.vision.norm_eps),
        }

    def _abstractor(self) -> dict[str, Any]:
        encoded = self.arrays.get("vision/last_hidden_state")
        if encoded is None:
            encoded = self._apply(_encode)(self.params, self._pixels())
        output, seen = self._apply(_abstract, sow=True)(self.params, jnp.asarray(encoded))
        layers = seen["abstractor"]["layers"]
        context = layers["attention"]["context"][0]
        return {
            "layer_outputs": layers["hidden"][0],
            "attn_context": context.reshape(*context.shape[:3], -1),
            "last_hidden_state": output,
        }

    # Cases.

    def _forward(self, name: str, case: Case, wanted: list[str]) -> dict[str, Any]:
        cut = np.s_[: case.rows, : case.length]
        starts = image_positions.slot_starts(case.image_index, case.image_starts, case.tokens.shape[1])
        is_image = image_positions.image_mask(starts, case.tokens.shape[1], self.config.tokens_per_image)
        answer: dict[str, Any] = {
            "expanded_modality": np.asarray(is_image)[cut].astype(int),
            "expanded_attention_mask": case.segment_ids[cut] > 0,
            "expanded_labels": case.labels[cut],
        }
        if {"logits", "loss"} & set(wanted):
            # What has gradients was run as in training, which beyond the trained length differs.
            lengths = None if "grad_norms" in wanted else case.segment_ids.sum(1).astype(np.int32)
            logits = self._apply(Owl2.__call__)(self.params, *case.inputs, lengths)
            answer["logits"] = logits[cut]
            answer["loss"] = next_token_loss(logits, case.labels)
        if "logits_nolabels_nomask" in wanted:
            open_mask = np.zeros_like(case.segment_ids)
            open_mask[cut] = 1
            inputs = (*case.inputs[:2], open_mask, *case.inputs[3:])
            answer["logits_nolabels_nomask"] = self._apply(Owl2.__call__)(self.params, *inputs)[cut]
        if "inputs_embeds" in wanted:
            answer["inputs_embeds"] = self._apply(_embed)(self.params, *case.inputs)[cut]
        if {"hidden_states", "attentions"} & set(wanted):
            answer |= self._layers(case)
        if {"past_k", "past_v"} & set(wanted):
            answer |= self._cache(case)
        if {"grad_norms", "grad_is_none"} & set(wanted):
            answer["grad_norms"] = norms = self._gradient_norms(case)
            # Without a gradient there means unused; ours may be 0 for other reasons, too.
            unused = self.arrays.get(f"{name}/grad_is_none", np.zeros(norms.shape))
            answer["grad_is_none"] = (norms == 0) & (unused != 0)
        return answer

    def _layers(self, case: Case) -> dict[str, Any]:
        hidden, seen = self._apply(Owl2.hidden, sow=True)(self.params, *case.inputs)
        layers = seen["decoder"]["layers"]
        embedded = self._apply(_embed)(self.params, *case.inputs)
        # The original's last state is the normed one.
        states = jnp.concatenate([embedded[None], layers["hidden"][0][:-1], hidden[None]])
        rows, length = case.rows, case.length
        return {
            "hidden_states": states[:, :rows, :length],
            "attentions": layers["attention"]["attention"][0][:, :rows, :, :length, :length],
        }

    def _cache(self, case: Case) -> dict[str, Any]:
        features = self._apply(Owl2.encode_images)(self.params, case.images)
        rows, _, pages = self._prompts(case, features, 0)
        cut = np.s_[:, : case.rows, :, : case.length]
        keys, values = rows.dense(pages, self.config.decoder.num_layers)
        past = {"past_k": keys[cut], "past_v": values[cut]}
        if format_of(self.config).heads_first:
            return past
        return {name: part.swapaxes(2, 3) for name, part in past.items()}

    def _gradient_norms(self, case: Case) -> np.ndarray:
        """Norm of each tensor's gradient, in the original's order of parameters."""
        gradient = flatten(self._gradient(self.params, *case.inputs, case.labels)[1])
        return np.asarray([np.linalg.norm(tensor) for tensor in self._theirs(gradient).values()])

    def _theirs(self, flat: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Leaves as the original's tensors, in its order; those of several leaves one below the other."""
        tensors: dict[str, list[np.ndarray]] = {}
        for pair in self.pairs:
            tensors.setdefault(pair.theirs, []).append(pair.rule.op.to_theirs(_ours(flat, pair)))
        return {name: np.concatenate(parts) for name, parts in tensors.items()}

    @functools.cached_property
    def _gradient(self) -> Callable[..., Any]:
        def loss(params: Params, *arguments: jax.Array) -> jax.Array:
            *inputs, labels = arguments
            return next_token_loss(Owl2(self.config).apply({"params": params}, *inputs), labels)

        return jax.jit(jax.value_and_grad(loss))

    def _train(self, wanted: list[str]) -> dict[str, Any]:
        """Five AdamW steps on one case, as the file's README describes them."""
        case = self._cases[TRAINED_ON]
        optimizer = optax.adamw(LEARNING_RATE, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0)
        update = jax.jit(
            lambda g, s, p: (lambda u, n: (optax.apply_updates(p, u), n))(*optimizer.update(g, s, p))
        )
        params, state = self.params, optimizer.init(self.params)
        losses, norms = [], []
        for _ in range(5):
            loss, gradient = self._gradient(params, *case.inputs, case.labels)
            losses.append(loss)
            norms.append(optax.global_norm(gradient))
            params, state = update(gradient, state, params)
        logits = self._apply(Owl2.__call__)(params, *case.inputs)
        losses.append(next_token_loss(logits, case.labels))
        final = {f"final_param/{name}": tensor for name, tensor in self._theirs(flatten(params)).items()}
        return {
            "losses": jnp.stack(losses),
            "grad_global_norms": jnp.stack(norms),
            "final_logits": logits[: case.rows, : case.length],
            **{name: tensor for name, tensor in final.items() if name in wanted},
        }

    def _prompts(self, case: Case, features: jax.Array, room: int) -> tuple[PagedRows, jax.Array, Pages]:
        """Rows with their prompts in pages and room for more tokens, and the states of their last ones."""
        rows = PagedRows(case.segment_ids, room)
        span = self.config.tokens_per_image
        tokens, images, batch = rows.prompts(case.tokens, case.image_index, case.image_starts, span)
        pages = rows.empty_pages(self.config)
        hidden, pages = self._apply(Owl2.step)(self.params, tokens, features, images, pages, batch)
        return rows, rows.newest(hidden, batch), pages

    def _generate(self, case: Case, count: int) -> dict[str, Any]:
        """Greedy decoding without a stop: tokens [B, count] and the logits after them."""
        features = self._apply(Owl2.encode_images)(self.params, case.images)
        rows, last, pages = self._prompts(case, features, count)
        tokens, steps = [], []
        for _ in range(count):
            steps.append(self._apply(Owl2.logits)(self.params, last))
            tokens.append(np.asarray(jnp.argmax(steps[-1], -1).astype(jnp.int32)))
            newest, images, batch = rows.following(tokens[-1])
            last, pages = self._apply(Owl2.step)(self.params, newest, features, images, pages, batch)
        return {"tokens": np.stack(tokens, 1)[: case.rows], "step_logits": jnp.stack(steps, 1)[: case.rows]}

    def _apply(self, method: Callable[..., Any], sow: bool = False) -> Callable[..., Any]:
        """Jitted `method(module, *args)`; with `sow`, it returns (output, intermediates) too."""
        return _jitted(self.config, method, sow)


@functools.lru_cache(maxsize=64)
def _jitted(config: Owl2Config, method: Callable[..., Any], sow: bool) -> Callable[..., Any]:
    def run(params: Params, *args: jax.Array) -> PyTree:
        if not sow:
            return Owl2(config).apply({"params": params}, *args, method=method)
        output, state = Owl2(config).apply(
            {"params": params}, *args, method=method, mutable=["intermediates"]
        )
        return output, state["intermediates"]

    return jax.jit(run)


def next_token_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy of float32[B, T, V] against int32[B, T] shifted by one, ignored labels left out."""
    targets = jnp.asarray(labels)[:, 1:]
    counted = targets != IGNORE_LABEL
    terms = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], jnp.where(counted, targets, 0))
    return jnp.sum(terms * counted) / jnp.sum(counted)


def _ours(flat: Mapping[str, Any], pair: Pair) -> np.ndarray:
    leaf = np.asarray(flat[pair.rule.ours])
    return leaf if pair.layer is None else leaf[pair.layer]


def _layer_norm(x: jax.Array, norm: Mapping[str, jax.Array], eps: float) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + eps) * norm["scale"] + norm["bias"]
    )


def _encode(m: Owl2, pixels: jax.Array) -> jax.Array:
    return m.vision(pixels)


def _abstract(m: Owl2, encoded: jax.Array) -> jax.Array:
    return m.abstractor(encoded)


def _embed(
    m: Owl2,
    tokens: jax.Array,
    _p: jax.Array,
    _s: jax.Array,
    images: jax.Array,
    image_index: jax.Array,
    image_starts: jax.Array,
) -> jax.Array:
    return m.embed(tokens, m.encode_images(images), image_index, image_starts)[0]
