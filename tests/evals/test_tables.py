"""Delimited text, whatever programs and people did to it."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.broken import Broken
from owl2_jax.evals.tables import read_parquet, read_plain_csv, read_table


def values(rows):
    return [str(row).split(", ", 1)[1] if isinstance(row, Broken) else row.value for row in rows]


def test_tables_keep_quoted_line_breaks_and_long_fields(folder):
    path = folder.text("a.tsv", 'index\timage\n1\t"two\nlines"\n2\t' + "A" * 200_000 + "\n")
    rows = values(read_table(path, "\t", ["index"]))
    assert rows[0]["image"] == "two\nlines"
    assert len(rows[1]["image"]) == 200_000


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_byte_order_marks_and_line_ends_of_windows_are_no_text(tmp_path, start, end):
    path = tmp_path / "a.tsv"
    path.write_bytes(start + end.join([b"index\tA", b"1\tred", b"", b"2\tnan", b""]))
    rows = read_table(path, "\t", ["index"])
    assert values(rows) == [{"index": "1", "A": "red"}, {"index": "2", "A": "nan"}]
    assert [row.place for row in rows] == ["row 2", "row 3"]


def test_a_quotation_mark_that_nothing_closes_spoils_its_own_row_alone(folder):
    path = folder.text("a.tsv", 'index\tA\n1\t"red\n2\tblue\n3\tgreen\n')
    rows = values(read_table(path))
    assert rows[0].startswith("row 2 is malformed: unexpected end of data; is there a quotation mark")
    assert rows[1:] == [{"index": "2", "A": "blue"}, {"index": "3", "A": "green"}]


def test_quotation_marks_inside_a_cell_are_never_dropped(folder):
    text = 'index\tA\n1\tthe "red" one\n2\t"red" one\n3\t"the ""red"" one"\n'
    rows = values(read_table(folder.text("a.tsv", text)))
    assert [rows[0]["A"], rows[2]["A"]] == ['the "red" one'] * 2
    assert rows[1].startswith("row 3 is malformed")


def test_rows_of_another_width_are_broken_and_the_others_read(folder):
    path = folder.text("a.csv", "q,a,b\nq,a\nq,a,b,c\nq2,a,b\n")
    rows = values(read_plain_csv(path, 3))
    assert (rows[0], rows[3]) == (["q", "a", "b"], ["q2", "a", "b"])
    assert rows[1] == "row 2 has another number of fields (2) than expected (3)"
    assert rows[2].startswith("row 3 has another number of fields (4)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("index\tA\n".encode("utf-16"), "is UTF-16"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a git-lfs pointer"),
        (b"index\tA\n1\t\xff\n", "is no table of text"),
        (b"", "has no column 'index'"),
    ],
)
def test_files_that_are_no_tables_are_named(tmp_path, content, message):
    path = tmp_path / "a.tsv"
    path.write_bytes(content)
    with pytest.raises(Owl2Error, match=message):
        read_table(path, "\t", ["index"])


def test_a_header_with_line_breaks_is_told_in_one_line(folder):
    path = folder.text("a.tsv", 'question\t"two\nlines"\n')
    with pytest.raises(Owl2Error, match=r"has no column 'index'; its columns are question, two lines$"):
        read_table(path, "\t", ["index"])


def test_parquet_files_are_named_as_what_they_are(tmp_path):
    path = tmp_path / "a.parquet"
    with pytest.raises(Owl2Error, match=r"a\.parquet is missing"):
        read_parquet(path, ["id"])
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(Owl2Error, match="is a git-lfs pointer"):
        read_parquet(path, ["id"])
