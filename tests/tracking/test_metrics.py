"""Scores equal the library's own on files, and what is known by hand."""

import numpy as np
import pytest

from relation_heads.tracking.mot_files import MotRows, read_mot, write_mot

pytest.importorskip("trackers")

from relation_heads.tracking.metrics import COMBINED, evaluate, evaluate_folders


def rows(table):
    """(frame, identity, x1) or (frame, identity, x1, score) of boxes of 10 x 20 pixels."""
    table = np.array([(*row, 1.0)[:4] for row in table], dtype=np.float64).reshape(-1, 4)
    start = np.stack([table[:, 2], np.zeros(len(table))], axis=1)
    return MotRows(
        table[:, 0].astype(np.int64),
        table[:, 1].astype(np.int64),
        np.concatenate([start, start + [10.0, 20.0]], axis=1),
        table[:, 3],
    )


def random_rows(seed, objects):
    """Ground truth of objects that walk, and what was found: gaps, false boxes, changed
    identities."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for k in range(objects):
        first, last = sorted(rng.integers(1, 40, size=2))
        place, identity = rng.uniform(0, 200), 7 * k + 3
        for frame in range(first, last + 1):
            place += rng.uniform(-2, 3)
            truth.append((frame, 5 * k + 1, place, float(rng.random() > 0.1)))
            if rng.random() < 0.1:
                identity = int(rng.integers(1, 60)) * 100 + k
            if rng.random() > 0.15:
                shown = identity if rng.random() > 0.1 else -1
                found.append((frame, shown, place + rng.uniform(-4, 4)))
    rng.shuffle(truth)
    rng.shuffle(found)
    return rows(truth), rows(found)


def test_equals_the_librarys_evaluation_of_files(tmp_path):
    """Its files here have seven columns; the ids are not in order and have gaps."""
    from trackers.eval import evaluate_mot_sequences

    for seed, name in enumerate(("a", "b", "c")):
        files = (f"gt/{name}/gt/gt.txt", f"found/{name}.txt")
        for file, made in zip(files, random_rows(seed, 5 + seed), strict=True):
            write_mot(made, tmp_path / file)
            lines = (tmp_path / file).read_text().splitlines()
            text = "\n".join(line.removesuffix(",-1,-1,-1") for line in lines)
            (tmp_path / file).write_text(text + "\n")
    families = ("Identity", "HOTA", "CLEAR")
    theirs = evaluate_mot_sequences(tmp_path / "gt", tmp_path / "found", metrics=[*families])
    ours = evaluate_folders(tmp_path / "gt", tmp_path / "found")
    assert ours.keys() == {"a", "b", "c", COMBINED}
    for name, scores in ours.items():
        their = theirs.aggregate if name == COMBINED else theirs.sequences[name]
        their = {k: v for f in families for k, v in getattr(their, f).to_dict().items()}
        assert scores == {k: their[k] for k in scores}
        assert 0 < scores["HOTA"] < 1 and 0 < scores["IDF1"] < 1 and scores["IDSW"] > 0
        assert scores["MOTA"] < 1


def test_identities_that_swap():
    """Two objects, four frames, and after two of them their identities are exchanged."""
    truth = rows([(f, k, 100 * k) for f in (1, 2, 3, 4) for k in (0, 1)])
    found = rows([(f, k if f < 3 else 1 - k, 100 * k) for f in (1, 2, 3, 4) for k in (0, 1)])
    scores = evaluate({"s": truth}, {"s": found})["s"]
    assert scores["IDSW"] == 2 and scores["MOTA"] == 1 - 2 / 8
    assert scores["IDF1"] == 0.5  # half of each object has the identity that it is matched with
    # Every box counts 2 / 6: of frames with either identity, those with both.
    assert scores["HOTA"] == pytest.approx((1 / 3) ** 0.5) and scores["DetA"] == pytest.approx(1)


def test_false_and_missed_boxes():
    truth = rows([(f, 1, 0) for f in range(1, 11)])
    found = rows([(f, 5, 0) for f in range(1, 9)] + [(3, 6, 500)])
    scores = evaluate({"s": truth}, {"s": found})["s"]
    assert scores["MOTA"] == pytest.approx(1 - (1 + 2) / 10)
    assert scores["IDF1"] == pytest.approx(2 * 8 / (10 + 9)) and scores["IDSW"] == 0


def test_what_does_not_count():
    truth, found = rows([(1, 1, 0), (2, 1, 0)]), rows([(1, 1, 0), (2, 1, 0)])
    want = evaluate({"s": truth}, {"s": found})["s"]
    assert want["MOTA"] == want["IDF1"] == want["HOTA"] == 1
    more = rows([(1, 1, 0), (2, 1, 0), (2, 9, 300, 0.0)]), rows([(1, 1, 0), (2, 1, 0), (2, -1, 70)])
    assert evaluate({"s": more[0]}, {"s": more[1]})["s"] == want


def test_nothing_was_found():
    scores = evaluate({"s": rows([(1, 1, 0)])}, {"s": rows([])})["s"]
    assert scores["MOTA"] == scores["IDF1"] == scores["HOTA"] == 0


def test_sequences_must_be_the_same(tmp_path):
    with pytest.raises(ValueError, match="no sequence"):
        evaluate({}, {})
    with pytest.raises(ValueError, match="'b'"):
        evaluate({"a": rows([])}, {"a": rows([]), "b": rows([])})
    with pytest.raises(ValueError, match=tmp_path.name):
        evaluate_folders(tmp_path, tmp_path)
    write_mot(rows([(1, 1, 0)]), tmp_path / "a" / "gt" / "gt.txt")
    with pytest.raises(FileNotFoundError, match=r"a\.txt"):
        evaluate_folders(tmp_path, tmp_path)
    assert len(read_mot(tmp_path / "a" / "gt" / "gt.txt")) == 1
