from __future__ import annotations

import dataclasses
import json
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.batch import Batch, build_batch
from owl2_jax.data.packing import RowLimits, RowPacker, Shard, iterate_once
from owl2_jax.model.owl2 import Owl2
from owl2_jax.training.losses import next_token_targets
from tests.data.samples import Stream, numbered_stream, numbers, rejected, sample

LIMITS = RowLimits(rows=3, length=64, images_per_row=4, images=7, image_size=28)


def take(shard: Shard, count: int) -> list[Batch]:
    return [next(shard).batch for _ in range(count)]


def arrays(batch: Batch) -> list[bytes]:
    return [value.tobytes() for value in vars(batch).values()]


# ---- what fits, and where ----------------------------------------------------


def test_first_row_with_room_takes_the_sample():
    packer = RowPacker(RowLimits(rows=2, length=10, images_per_row=0, images=0, image_size=28))
    assert [packer.add(sample(n, seed=n)) for n in (6, 7, 4, 4, 3)] == [True, True, True, False, True]
    np.testing.assert_array_equal(packer.batch().segment_ids, [[1] * 6 + [2] * 4, [1] * 7 + [2] * 3])
    assert packer.full


@pytest.mark.parametrize(
    ("limits", "samples", "fits"),
    [
        (RowLimits(1, 40, images_per_row=2, images=9, image_size=28), [(7, 1), (12, 2), (7, 1)], [1, 0, 1]),
        (RowLimits(2, 40, images_per_row=4, images=3, image_size=28), [(12, 2), (12, 2), (7, 1)], [1, 0, 1]),
        (RowLimits(2, 40, images_per_row=0, images=0, image_size=28, samples=1), [(4, 0)] * 3, [1, 1, 0]),
    ],
    ids=["slots of the row", "images of the part", "samples of a row"],
)
def test_static_numbers_are_never_exceeded(limits, samples, fits):
    packer = RowPacker(limits)
    assert [packer.add(sample(*one)) for one in samples] == [bool(fit) for fit in fits]


def test_targets_of_a_row_are_bounded():
    packer = RowPacker(RowLimits(1, 40, images_per_row=0, images=0, image_size=28, targets=5))
    assert [packer.add(sample(10, targets=t)) for t in (3, 3, 2)] == [True, False, True]


def test_random_streams_stay_within_all_limits_and_lose_nothing():
    shard = Shard(numbered_stream(97), LIMITS, window=8)
    batches = take(shard, 60)
    seen = Counter(number for batch in batches for number in numbers(batch))
    for batch in batches:
        assert batch.num_images <= LIMITS.images
        slots = (batch.image_index >= 0).sum(axis=1)
        assert slots.max() <= LIMITS.images_per_row
        index = batch.image_index[batch.image_index >= 0]
        np.testing.assert_array_equal(index, np.arange(len(index)))
        for row, starts in enumerate(batch.image_starts):
            for start in starts[: slots[row]]:
                assert not batch.tokens[row, start : start + 5].any()
    state = shard.state()
    expected = Counter(place % 97 for place in range(state["next"]) if place not in state["waiting"])
    assert seen == expected


def test_waiting_samples_come_first_in_the_next_batch():
    shard = Shard(numbered_stream(200), LIMITS, window=8)
    for _ in range(20):
        next(shard)
        waiting = shard.state()["waiting"]
        assert waiting == sorted(waiting)
        assert numbers(next(shard).batch)[0] == waiting[0] % 200


# ---- the end of a batch -------------------------------------------------------


def test_full_rows_end_the_batch_before_the_window_does():
    shard = Shard(Stream([(sample(64), None)]), LIMITS, window=64)
    packed = next(shard)
    assert packed.state == {"next": 3, "waiting": [], "rejected": {}, "cut": {}}
    assert packed.batch.efficiency == 1.0


def test_a_stream_of_nothing_but_rejects_still_gives_batches():
    shard = Shard(Stream([(None, rejected(0))]), LIMITS, window=8)
    packed = next(shard)
    assert packed.batch.num_samples == 0
    assert packed.state["rejected"] == {"a/corrupt": packed.state["next"]}
    assert len(packed.rejected) == packed.state["next"] >= 1000


def test_cut_samples_are_used_and_noted():
    shard = Shard(Stream([(sample(64), rejected(4, "truncated", used=True))]), LIMITS, window=8)
    packed = next(shard)
    assert packed.batch.num_samples == 3
    assert packed.state["cut"] == {"a/truncated": 3}
    assert not packed.state["rejected"]


# ---- resuming -----------------------------------------------------------------


def test_every_batch_can_be_resumed_from_its_state():
    stream = numbered_stream(83)
    whole = take(Shard(stream, LIMITS, window=8), 12)
    for stop in range(12):
        first = Shard(stream, LIMITS, window=8)
        states = [next(first).state for _ in range(stop)]
        state = json.loads(json.dumps(states[-1])) if states else None
        rest = take(Shard(stream, LIMITS, window=8, state=state), 12 - stop)
        assert list(map(arrays, rest)) == list(map(arrays, whole[stop:]))


def test_rejects_are_noted_once_across_a_resume():
    stream = numbered_stream(50)
    for number in range(3, 50, 7):
        stream.items[number] = (None, rejected(number))
    first = Shard(stream, LIMITS, window=8)
    before = [next(first) for _ in range(3)]
    second = Shard(stream, LIMITS, window=8, state=before[-1].state)
    after = [next(second) for _ in range(3)]
    places = [place for packed in before + after for place, _ in packed.rejected]
    state = after[-1].state
    assert places == [place for place in range(state["next"]) if place % 50 % 7 == 3]
    assert sum(state["rejected"].values()) == len(places)


def test_a_waiting_record_that_has_become_unusable_is_an_error():
    stream = numbered_stream(50)
    state = next(Shard(stream, LIMITS, window=8)).state
    stream.items[state["waiting"][2]] = (None, rejected(9))
    with pytest.raises(Owl2Error, match="record 9 of a was usable before"):
        Shard(stream, LIMITS, window=8, state=state)


def test_shards_share_the_stream_without_overlap():
    stream = numbered_stream(1000)
    shards = [Shard(stream, LIMITS, window=8, shard=number, num_shards=4) for number in range(4)]
    seen = [number for shard in shards for batch in take(shard, 5) for number in numbers(batch)]
    assert len(seen) == len(set(seen))
    assert {number % 4 for number in numbers(next(shards[2]).batch)} == {2}


def test_a_finite_stream_is_packed_to_its_end():
    items = numbered_stream(40).items
    items[5] = (None, rejected(5))
    found = [number for batch in iterate_once(items, LIMITS) for number in numbers(batch)]
    assert sorted(found) == [number for number in range(40) if number != 5]
    assert not list(iterate_once([(None, rejected(0))], LIMITS))


# ---- how well rows are filled ---------------------------------------------------


def instruction_like(count: int) -> Stream:
    """Lengths as stage 2 has them at 65 positions an image: short answers, captions, dialogues, text."""
    rng = np.random.default_rng(0)
    kinds = {"answers": (4.2, 0.7), "captions": (3.2, 0.4), "dialogues": (5.7, 0.4), "text": (6.3, 0.9)}
    image, items = np.zeros((1, 1, 3), np.uint8), []
    for kind in rng.choice(list(kinds), count, p=[0.45, 0.2, 0.2, 0.15]):
        images = int(kind != "text")
        length = int(np.clip(65 * images + rng.lognormal(*kinds[kind]), 65 * images + 4, 2048))
        changes = {"images": (image,) * images, "image_starts": np.ones(images, np.int32)}
        items.append((dataclasses.replace(sample(length, targets=2), **changes), None))
    return Stream(items)


@pytest.mark.parametrize("rows", [1, 8])
def test_rows_of_an_instruction_like_mix_are_at_least_95_percent_full(rows):
    limits = RowLimits(rows, 2048, images_per_row=16, images=16 * rows, image_size=1)
    batches = take(Shard(instruction_like(1000), limits, window=64), 40)
    assert np.mean([batch.efficiency for batch in batches]) >= 0.95
    assert min(batch.efficiency for batch in batches) >= 0.9


# ---- the model sees no difference -------------------------------------------------


def losses_and_gradient(batch: Batch, params, config):
    """Sum of next-token losses over a batch, and its gradient."""
    model = Owl2(config)
    targets = next_token_targets(jnp.asarray(batch.labels), jnp.asarray(batch.segment_ids))

    def loss(params):
        logits = model.apply(
            {"params": params}, batch.tokens, batch.positions, batch.segment_ids, batch.images,
            batch.image_index, batch.image_starts,
        )  # fmt: skip
        chosen = jnp.take_along_axis(logits, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
        return jnp.sum(jnp.where(targets >= 0, jax.nn.logsumexp(logits, axis=-1) - chosen, 0.0))

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    return value, gradient, int((targets >= 0).sum())


def test_packed_loss_and_gradient_equal_unpacked(tiny_config, tiny_params):
    span = tiny_config.tokens_per_image
    samples = [
        sample(*shape, seed=i, span=span)
        for i, shape in enumerate([(20, 2), (9, 0), (14, 1), (7, 0), (16, 1)])
    ]
    packer = RowPacker(RowLimits(rows=2, length=36, images_per_row=3, images=6, image_size=28))
    assert all(packer.add(one) for one in samples)
    packed = packer.batch()
    assert packed.segment_ids.max() == 3
    alone = build_batch([[one] for one in samples], 36, images_per_row=3, num_images=4, image_size=28)

    one, other = (losses_and_gradient(batch, tiny_params, tiny_config) for batch in (packed, alone))
    assert one[2] == other[2] == sum(s.targets for s in samples)
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    # Some gradients (of key biases) are zero but for rounding, so all are measured by the largest.
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(other[1]))
    for left, right in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-6 * scale)
