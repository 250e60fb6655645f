"""The static sizes of programs: few, and enough for every batch."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.engine_config import EngineConfig
from owl2_jax.inference.program_sizes import (
    Memory,
    Sizes,
    chunk_sizes,
    decode_rows,
    describe_cache,
    page_bytes,
)
from owl2_jax.testing import tiny

CONFIG = tiny.tiny_config()


@pytest.mark.parametrize("sequences", [1, 2, 3, 7, 32, 64, 256])
def test_a_server_has_at_most_twelve_programs(sequences):
    sizes = Sizes.of(EngineConfig(sequences=sequences), CONFIG)
    copies_and_rows = 2
    assert len(sizes.decode) + len(sizes.chunks) + len(sizes.images) + copies_and_rows <= 12
    assert sizes.decode[-1].rows == sequences
    assert sizes.decode[0].rows == 1
    assert sizes.chunks[-1].tokens == EngineConfig.chunk_tokens


def test_sizes_divide_over_the_pieces_of_a_mesh():
    assert all(rows % 4 == 0 for rows in decode_rows(32, ways=4))
    assert all(size.tokens % 4 == 0 for size in chunk_sizes(250, 32, ways=4))
    assert Sizes.of(EngineConfig(sequences=8), CONFIG, ways=4).images == (4, 8)
    with pytest.raises(Owl2Error, match="sequences 6 do not divide over the 4"):
        Sizes.of(EngineConfig(sequences=6), CONFIG, ways=4)


def test_pages_fill_the_memory_that_is_given():
    each = page_bytes(CONFIG, 16)
    sizes = Sizes.of(EngineConfig(sequences=2, cache_bytes=100 * each + 5), CONFIG)
    assert sizes.pages == 100
    assert sizes.pages_per_sequence == CONFIG.decoder.max_length // 16


def test_without_a_number_all_sequences_fit_at_their_longest():
    sizes = Sizes.of(EngineConfig(sequences=3), CONFIG)
    assert sizes.pages == 3 * sizes.pages_per_sequence


def test_a_cache_too_small_for_one_sequence_is_refused_with_what_it_takes():
    least = (CONFIG.decoder.max_length // 16 + 1) * page_bytes(CONFIG, 16)
    with pytest.raises(Owl2Error, match=f"give at least {least}"):
        Sizes.of(EngineConfig(sequences=1, cache_bytes=least - 1), CONFIG)
    assert Sizes.of(EngineConfig(sequences=1, cache_bytes=least), CONFIG).pages_per_sequence == 8


def test_an_accelerator_gives_a_share_of_what_it_has_left():
    each = page_bytes(CONFIG, 16)
    item = CONFIG.tokens_per_image * CONFIG.decoder.width * 4
    features = Sizes.of(EngineConfig(), CONFIG).features * item
    for share, config in ((0.9, {}), (0.5, {"cache_share": 0.5})):
        sizes = Sizes.of(EngineConfig(sequences=512, **config), CONFIG, memory=Memory(features + 1000 * each))
        assert sizes.pages == pytest.approx(1000 * share, abs=1)
    plenty = Sizes.of(EngineConfig(sequences=2), CONFIG, memory=Memory(2**40))
    assert plenty.pages == 2 * plenty.pages_per_sequence  # no more than can be needed
    given = EngineConfig(sequences=2, cache_bytes=50 * each)
    assert Sizes.of(given, CONFIG, memory=Memory(0)).pages == 50


def test_heads_of_the_tpu_are_filled_up_to_whole_lanes():
    assert page_bytes(CONFIG, 16, 128) == page_bytes(CONFIG, 16) * 128 // CONFIG.decoder.head_dim


def test_a_full_device_and_a_share_of_a_cpu_are_refused():
    with pytest.raises(Owl2Error, match="what the device has left, 0 make 0 pages"):
        Sizes.of(EngineConfig(), CONFIG, memory=Memory(0))
    with pytest.raises(Owl2Error, match=r"cache_share 0\.5 is a share of an accelerator's memory"):
        Sizes.of(EngineConfig(cache_share=0.5), CONFIG)
    with pytest.raises(Owl2Error, match="leave one of them out"):
        EngineConfig(cache_share=0.5, cache_bytes=2**20)


def test_the_cache_in_a_line():
    config = EngineConfig(sequences=3)
    line = describe_cache(config, CONFIG, 1000)
    assert line.startswith("cache: 1000 pages of 16 positions for 16000 tokens of up to 3 sequences, ")


def test_the_pool_holds_the_images_of_the_fullest_chunk():
    sizes = Sizes.of(EngineConfig(feature_bytes=1, chunk_tokens=50), CONFIG)
    assert sizes.features >= 50 / CONFIG.tokens_per_image + 1
