from __future__ import annotations

import numpy as np

from owl2_jax.data.batch import Sample, build_batch, concatenate
from tests.data.samples import sample


def small(tokens, labels, starts, images, dataset) -> Sample:
    pixels = tuple(np.full((2, 2, 3), shade, np.uint8) for shade in images)
    array = [np.array(values, np.int32) for values in (tokens, labels, starts)]
    return Sample(*array, pixels, dataset, targets=1)


def test_samples_lie_behind_each_other_with_their_own_positions_and_images():
    one = small([5, 0, 0, 6], [-100, -100, -100, 6], [1], [10], dataset=1)
    two = small([7, 8], [-100, 8], [], [], dataset=0)
    three = small([0, 0, 0, 0, 9], [-100, -100, -100, -100, 9], [0, 2], [20, 30], dataset=2)
    batch = build_batch([[one, two], [], [three]], 7, images_per_row=2, num_images=4, image_size=2)

    np.testing.assert_array_equal(batch.tokens, [[5, 0, 0, 6, 7, 8, 0], [0] * 7, [0, 0, 0, 0, 9, 0, 0]])
    np.testing.assert_array_equal(batch.positions[0], [0, 1, 2, 3, 0, 1, 0])
    np.testing.assert_array_equal(batch.segment_ids[0], [1, 1, 1, 1, 2, 2, 0])
    np.testing.assert_array_equal(batch.segment_ids[1], [0] * 7)
    np.testing.assert_array_equal(batch.labels[0], [-100, -100, -100, 6, -100, 8, -100])
    np.testing.assert_array_equal(batch.dataset_ids[0], [1, 1, 1, 1, 0, 0, -1])
    np.testing.assert_array_equal(batch.image_index, [[0, -1], [-1, -1], [1, 2]])
    np.testing.assert_array_equal(batch.image_starts, [[1, 0], [0, 0], [0, 2]])
    np.testing.assert_array_equal(batch.images[:, 0, 0, 0], [10, 20, 30, 0])
    assert (batch.num_tokens, batch.num_samples, batch.num_images) == (11, 3, 3)
    assert batch.efficiency == 11 / 21
    np.testing.assert_array_equal(batch.samples_by_set(4), [1, 1, 1, 0])


def test_a_second_sample_s_images_start_behind_the_first():
    batch = build_batch([[sample(9, 1), sample(12, 2)]], 32, images_per_row=3, num_images=3, image_size=28)
    np.testing.assert_array_equal(batch.image_starts, [[1, 9 + 1, 9 + 6]])


def test_text_alone_has_no_images_at_all():
    batch = build_batch([[sample(5)]], 8, images_per_row=0, num_images=0, image_size=28)
    assert batch.images.shape == (0, 28, 28, 3)
    assert batch.image_index.shape == (1, 0)


def test_parts_keep_their_images_in_their_part():
    parts = [build_batch([[sample(12, 2)]], 16, 2, 3, 28), build_batch([[sample(9, 1)]], 16, 2, 3, 28)]
    whole = concatenate(parts)
    np.testing.assert_array_equal(whole.image_index, [[0, 1], [3, -1]])
    np.testing.assert_array_equal(whole.images[3], parts[1].images[0])
    assert whole.tokens.shape == (2, 16)
