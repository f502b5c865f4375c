"""Tables: numbers computed by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

from relation_heads.analysis.given_boxes.table import (
    Results,
    boxes_table,
    class_mean,
    curve_table,
    interval,
    main_table,
    tables,
)


def result(method, seed, right, *, size=0, several=(1, 2), by_class=None, by_boxes=None):
    """Of 200 boxes so many are right."""
    measured = {
        "all": [right, 200],
        "several_classes": list(several),
        "by_class": by_class or {"cat": [right, 200]},
        "by_boxes": by_boxes or {"2": [right, 200]},
    }
    setting = {"train": "a", "test": "b", "epochs": "3", "batch_size": "4", "min_boxes": "1"}
    made_by = {"commit": "abc", "machine": f"m{seed}"}
    return {"method": method, "seed": seed, "train_images": size, "setting": setting,
            "measured": measured, "made_by": made_by}  # fmt: skip


def test_intervals():
    assert interval([1.5]) == (1.5, None)
    # s = 1, t = 4.303 for two degrees of freedom, 4.303 / sqrt(3)
    assert interval([1, 2, 3]) == (2, pytest.approx(2.484, abs=1e-3))
    # s^2 = 2.5, t = 2.776, 2.776 sqrt(2.5 / 5)
    assert interval([1, 2, 3, 4, 5]) == (3, pytest.approx(1.963, abs=1e-3))
    assert interval([0, 2] * 10)[1] == pytest.approx(2.228 * 1.0260 / 20**0.5, abs=1e-3)


def test_the_class_mean_is_of_classes_with_five_boxes():
    by_class = {"cat": [4, 5], "dog": [0, 4], "cup": [5, 10], "bed": [0, 0]}
    assert class_mean({"by_class": by_class}) == pytest.approx(65)
    assert class_mean({"by_class": {"dog": [0, 4]}}) is None


def test_main_table():
    # Accuracies 80, 81, 85 and 82, 84, 84: gains +2, +3, -1.
    runs = [result("mlp", s, n) for s, n in enumerate((160, 162, 170))]
    runs += [result("relation", s, n, several=(2, 2)) for s, n in enumerate((164, 168, 168))]
    runs += [result("sgrn", 0, 165), result("sgrn", 7, 10), result("mine", 7, 190)]
    runs += [result("control_self", 0, 161), result("control_self", 1, 161)]
    # s = 2.0817, 4.303 s / sqrt(3) = 5.17; +1.5 and +3.5 over the control: 12.706 * 1 = 12.7
    assert main_table(Results(runs)) == [
        "| method | seeds | instances | gain | over its control | class mean | gain "
        "| ≥ 2 classes | gain |",
        "|:--|--:|--:|--:|--:|--:|--:|--:|--:|",
        "| `mlp` | 3 | 82.0 (80.0–85.0) |  |  | 82.0 (80.0–85.0) |  | 50.0 (50.0–50.0) |  |",
        "| `control_self` | 2 | 80.5 (80.5–80.5) | +0.0 ± 6.4 |  | 80.5 (80.5–80.5) | +0.0 ± 6.4 | "
        "50.0 (50.0–50.0) | +0.0 ± 0.0 |",
        "| `relation` | 3 | 83.3 (82.0–84.0) | +1.3 ± 5.2 | +2.5 ± 12.7 | 83.3 (82.0–84.0) | "
        "+1.3 ± 5.2 | 100.0 (100.0–100.0) | **+50.0 ± 0.0** |",
        "| `sgrn` | 2 | 43.8 (5.0–82.5) | +2.5 |  | 43.8 (5.0–82.5) | +2.5 | "
        "50.0 (50.0–50.0) | +0.0 |",
        "| `mine` | 1 | 95.0 |  |  | 95.0 |  | 50.0 |  |",
    ]


def test_a_gain_is_bold_if_its_interval_is_on_one_side_of_0():
    # Gains -1, -1.5, -2: s = 0.5, half an interval 1.24; gains -1, -1.5, -0.5 likewise.
    below = [result("mlp", s, 100) for s in range(3)]
    below += [result("relation", s, n) for s, n in enumerate((98, 97, 96))]
    below += [result("sgrn", s, n) for s, n in enumerate((98, 97, 99))]
    rows = main_table(Results(below))
    assert "**-1.5 ± 1.2**" in rows[3] and "| -1.0 ± 1.2 |" in rows[4]


def test_boxes_table():
    boxes = {"1": [1, 2], "3": [1, 4], "4": [3, 4], "9": [1, 1]}
    better = {"1": [2, 2], "3": [2, 4], "4": [3, 4], "9": [1, 1]}
    runs = [result("mlp", 0, 9, by_boxes=boxes), result("relation", 0, 9, by_boxes=better)]
    assert boxes_table(Results(runs), min_boxes=1) == [
        "| method | 1 box | 3–4 boxes | 9–16 boxes |",
        "|:--|--:|--:|--:|",
        "| `mlp` | 50.0 | 50.0 | 100.0 |",
        "| `relation` | +50.0 | +12.5 | +0.0 |",
    ]


def test_few_boxes_make_no_column():
    boxes = {"1": [99, 99], "2": [9, 100], "3": [50, 60], "4": [0, 40], "17": [1, 1]}
    runs = [result("mlp", 0, 9, by_boxes=boxes)]
    table = ["| method | 2 boxes | 3–4 boxes |", "|:--|--:|--:|", "| `mlp` | 9.0 | 50.0 |"]
    assert boxes_table(Results(runs)) == table
    runs.append(result("mlp", 1, 9, by_boxes={**boxes, "2": [9, 99]}))
    assert boxes_table(Results(runs))[0] == "| method | 3–4 boxes |"


def test_curve_table():
    runs = [result("mlp", 0, 160), result("mlp", 0, 100, size=128), result("mlp", 1, 110, size=128)]
    runs += [result("sgrn", 0, 170), result("sgrn", 0, 90, size=128), result("sgrn", 0, 3, size=64)]
    assert curve_table(Results(runs)) == [
        "| method | 64 images | 128 images | all images |",
        "|:--|--:|--:|--:|",
        "| `mlp` |  | 52.5 (50.0–55.0) | 80.0 |",
        "| `sgrn` |  | -5.0 | +5.0 |",
    ]


def test_all_tables_say_what_they_were_made_with():
    runs = [result("mlp", 0, 160), result("mlp", 1, 160)]
    text = tables(runs)
    assert text.count("|:--|") == 2 and "128 images" not in text
    assert text.endswith("- commit: abc\n- machine: m0; m1")
    assert "- batch size: 4" in text
    assert "| 128 images |" in tables([*runs, result("mlp", 0, 1, size=128)])
