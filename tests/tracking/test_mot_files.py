"""MOT text files: what is written is read again, and what cannot be read is named."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relation_heads.tracking.mot_files import MotRows, read_mot, write_mot

PIXEL = st.floats(-500, 5000, width=32)
SIZE = st.floats(0.0625, 3000, width=32)
ROW = st.tuples(
    st.integers(1, 10**6), st.integers(-1, 10**6), PIXEL, PIXEL, SIZE, SIZE, st.floats(-1, 1)
)


def rows_of(table):
    frames, ids, left, top, width, height, scores = (
        np.array(column) for column in (zip(*table, strict=True) if table else [[]] * 7)
    )
    boxes = np.stack([left, top, left + width, top + height], axis=1).astype(np.float64)
    return MotRows(frames.astype(np.int64), ids.astype(np.int64), boxes, scores.astype(np.float64))


def unique(row):
    return row[:2] if row[1] >= 0 else object()


@settings(max_examples=50, deadline=None)
@given(st.lists(ROW, max_size=20, unique_by=unique))
def test_round_trip(tmp_path_factory, table):
    rows, path = rows_of(table), tmp_path_factory.mktemp("mot") / "of" / "a.txt"
    write_mot(rows, path)
    again = read_mot(path)
    np.testing.assert_array_equal(again.frames, rows.frames)
    np.testing.assert_array_equal(again.ids, rows.ids)
    np.testing.assert_allclose(again.boxes, rows.boxes, rtol=0, atol=2e-6)
    np.testing.assert_allclose(again.scores, rows.scores, rtol=0, atol=1e-6)
    write_mot(again, path.with_name("b.txt"))
    assert path.with_name("b.txt").read_text() == path.read_text()


def test_pixels_of_the_file_count_from_1(tmp_path):
    path = tmp_path / "det.txt"
    path.write_text("1,-1,1,1,10,20.5,0.9,-1,-1,-1\n\n 2 , 7.0, 3.25,4,1,1,1\n")
    rows = read_mot(path)
    assert rows.frames.tolist() == [1, 2] and rows.ids.tolist() == [-1, 7]
    assert rows.boxes.tolist() == [[0, 0, 10, 20.5], [2.25, 3, 3.25, 4]]
    assert rows.scores.tolist() == [0.9, 1]
    write_mot(rows, path)
    assert path.read_text() == "1,-1,1,1,10,20.5,0.9,-1,-1,-1\n2,7,3.25,4,1,1,1,-1,-1,-1\n"


def test_rows_of_a_selection():
    rows = rows_of([(1, 1, 0, 0, 1, 1, 1), (2, 1, 5, 5, 1, 1, 0.5), (2, 2, 7, 7, 1, 1, 0.2)])
    assert rows.take(rows.frames == 2).scores.tolist() == [0.5, 0.2]
    assert rows.take(np.array([2, 0])).ids.tolist() == [2, 1]


def test_rows_together():
    rows = rows_of([(1, 1, 0, 0, 1, 1, 1), (2, 1, 5, 5, 1, 1, 0.5), (2, 2, 7, 7, 1, 1, 0.2)])
    again = MotRows.together([rows.take(rows.frames == 1), rows.take(rows.frames == 2)])
    for name, values in vars(rows).items():
        np.testing.assert_array_equal(getattr(again, name), values)
    assert len(MotRows.together([])) == 0


def test_rows_by_frame():
    rows = rows_of([(f, -1, 0, 0, 1, 1, 1) for f in (4, 2, 4, 1)])
    assert rows.last == 4 and rows_of([]).last == 0
    assert [r.tolist() for r in rows.by_frame()] == [[3], [1], [], [0, 2]]
    assert [r.tolist() for r in rows.by_frame(2)] == [[3], [1]]
    assert [r.tolist() for r in rows.by_frame(5)] == [[3], [1], [], [0, 2], []]
    assert [r.tolist() for r in rows_of([]).by_frame(2)] == [[], []] and rows_of(
        []
    ).by_frame() == []


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("2,1,5,5,10", "2,1,5,5,10"),
        ("two,1,5,5,10,10,1", "two"),
        ("2,1,5,nan,10,10,1", "nan"),
        ("2,1,5,5,10,10,", "''"),
        ("0,1,5,5,10,10,1", "'0'"),
        ("2.5,1,5,5,10,10,1", "'2.5'"),
        ("2,-2,5,5,10,10,1", "'-2'"),
        ("2,1,5,5,0,10,1", "'0'"),
        ("2,1,5,5,10,-3,1", "'-3'"),
        ("1,1,5,5,10,10,1", "line 1"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, named):
    path = tmp_path / "gt.txt"
    path.write_text(f"1,1,2,2,3,3,1\n{line}\n")
    with pytest.raises(ValueError, match=f"gt.txt, line 2: .*{re.escape(named)}"):
        read_mot(path)


def test_detections_of_a_frame_are_many(tmp_path):
    (tmp_path / "det.txt").write_text("1,-1,2,2,3,3,1\n1,-1,2,2,3,3,1\n")
    assert len(read_mot(tmp_path / "det.txt")) == 2


@pytest.mark.parametrize("name", ["frames", "ids", "boxes", "scores"])
def test_arrays_of_another_form_are_named(name):
    good = vars(rows_of([(1, 1, 0, 0, 1, 1, 1)]))
    for bad in (good[name].astype(np.float32), np.concatenate([good[name]] * 2)):
        with pytest.raises(ValueError, match=r"MotRows\.(frames|ids|boxes|scores)"):
            MotRows(**{**good, name: bad})


def test_a_box_without_size_is_not_written(tmp_path):
    rows = rows_of([(1, 1, 0, 0, 1, 1, 1), (3, 1, 4, 4, 1e-9, 1, 1)])
    with pytest.raises(ValueError, match="frame 3"):
        write_mot(rows, tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())
