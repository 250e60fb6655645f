"""Rows of pages."""

from __future__ import annotations

from owl2_jax.inference.block_table import BlockTables


def test_pages_that_come_later_are_written_after_those_that_stand():
    tables = BlockTables(2, 4)
    tables.put(0, [5, 6])
    tables.put(1, [7])
    tables.put(0, [5, 6, 9])
    assert tables.array.tolist() == [[5, 6, 9, 0], [7, 0, 0, 0], [0, 0, 0, 0]]


def test_a_row_begins_again_for_another_sequence():
    tables = BlockTables(1, 3)
    tables.put(0, [5, 6])
    tables.put(0, [1, 2], whole=True)
    assert tables.array[0, :2].tolist() == [1, 2]
