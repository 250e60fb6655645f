from __future__ import annotations

from owl2_jax.core.conditional_object import conditional_object


def test_of_two_writers_on_a_condition_the_first_wins(any_bucket):
    one, other = conditional_object(any_bucket / "o"), conditional_object(any_bucket / "o")
    seen = one.read()
    assert seen.content is None
    assert other.read().generation == seen.generation
    written = one.write(b"1", seen.generation)
    assert written is not None
    assert other.write(b"2", seen.generation) is None
    assert other.read() == (b"1", written)
    assert other.write(None, written) is not None
    assert one.write(b"3", written) is None
    assert one.read().content is None
