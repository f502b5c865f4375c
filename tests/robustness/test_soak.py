"""The slope of what a long training uses."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

pytest.importorskip("detectron2")

from tests.robustness.soak import resources, slope, soak


def test_a_line_is_laid_through_the_last_two_thirds():
    times = np.arange(0, 3600, 10.0)
    filling = np.minimum(times, 600) * 10  # at first
    noise = np.random.default_rng(0).normal(0, 0.1, len(times))
    per_hour, error = slope(list(times), list(100 + filling + 3 * times / 3600 + noise))
    assert abs(per_hour - 3) < 4 * error < 0.5


def test_open_files_and_memory_are_counted(tmp_path):
    memory, files = resources()
    handles = [open(tmp_path / f"{k}", "w") for k in range(3)]
    with mmap.mmap(-1, 40 * 2**20) as more:  # new to the process, however much it has freed
        more[:] = b"x" * len(more)
        after = resources()
    for handle in handles:
        handle.close()
    assert after[1] == files + 3 and 30 < after[0] - memory < 60


def test_a_short_one_notes_and_ends():
    found = soak(minutes=0.025, every=0.1, workers=0)
    assert found["iterations"] > 0 and len(found["memory_mib"]) == len(found["seconds"]) > 3
    assert all(files > 3 for files in found["files"])
