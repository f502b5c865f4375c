"""The wheel holds everything that an installed package needs, and works outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
# A build writes beside its sources: it gets a copy of what git knows.
SOURCES = ("relation_heads", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder / "made"), str(folder)], check=True)
    (path,) = (folder / "made").glob("relation_heads-*.whl")
    return path


def test_what_is_in_it(wheel):
    assert wheel.stat().st_size <= 20e6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "relation-heads = relation_heads.commands:main" in archive.read(points).decode()
    for pattern in ("**/*.py", "**/*.txt", "**/*.json", "**/*.pth", "py.typed", "**/*.html"):
        for path in (ROOT / "relation_heads").glob(pattern):
            assert path.relative_to(ROOT).as_posix() in names
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"relation_heads/{path.relative_to(ROOT).as_posix()}" in names
    assert not [name for name in names if name.startswith(("tests", "tools", "benchmarks"))]


def test_it_works_outside_the_checkout(wheel, tmp_path):
    pytest.importorskip("detectron2")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True)

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(site)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("-c", "import relation_heads; print(relation_heads.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    assert "COCO-Detection/cascade_rcnn_R_50_FPN_sgrn_1x.yaml" in run(
        "-m", "relation_heads", "configs", "cascade", "sgrn"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (192, 192, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    program = str(site / "bin" / "relation-heads")
    printed = run(program, "predict", "scenes-relation-signed", "noise.png", "--output", "found")
    assert "Pictures in found" in printed and (tmp_path / "found" / "noise.jpg").is_file()
