"""Pages: taken, shared, given back; the one that was let go of first is taken first."""

from __future__ import annotations

from owl2_jax.inference.kv_cache import PagePool


def test_nothing_is_given_out_when_there_is_too_little():
    pool = PagePool(3, 4)
    assert pool.take(4) is None
    assert pool.num_free == 3
    assert len(set(pool.take(3))) == 3
    assert pool.take(1) is None


def test_a_page_is_free_when_its_last_user_has_gone():
    pool = PagePool(2, 4)
    (page,) = pool.take(1)
    pool.share(page)
    pool.release([page])
    assert pool.num_free == 1
    pool.release([page])
    assert pool.num_free == 2


def test_free_pages_can_be_shared_again():
    pool = PagePool(2, 4)
    pages = pool.take(2)
    pool.release(pages)
    pool.share(pages[0])
    assert pool.take(2) is None
    assert pool.take(1) == [pages[1]]


def test_what_nobody_wants_again_is_taken_before_what_may_be_wanted():
    pool = PagePool(3, 4)
    pages = pool.take(3)
    pool.release(pages, keep=lambda page: page != pages[1])
    assert pool.take(3) == [pages[1], pages[2], pages[0]]


def test_reuse_is_told():
    told = []
    pool = PagePool(2, 4)
    pool.on_reuse = told.append
    assert pool.take(2) == told


def test_positions_in_pages():
    pool = PagePool(2, 4)
    assert [pool.pages_for(n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
