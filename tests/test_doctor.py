"""`relation_heads.doctor` finds what is missing, and never crashes over it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from relation_heads import doctor

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> doctor.Report:
    for name in doctor.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return doctor.Report()


def break_import(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    real = doctor.try_import

    def broken(wanted: str) -> tuple[object, str]:
        return (None, f"{type(error).__name__}: {error}") if wanted == name else real(wanted)

    monkeypatch.setattr(doctor, "try_import", broken)


def test_a_bare_python_gets_a_numbered_list(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-S", str(ROOT / "relation_heads" / "doctor.py")],  # no site-packages
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (1, "")
    assert "  1. torch cannot be imported" in result.stdout
    assert "ok" not in result.stdout.splitlines()


def test_a_missing_detectron2_is_a_problem(
    report: doctor.Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_import(monkeypatch, "detectron2", ModuleNotFoundError("No module named 'detectron2'"))
    doctor.check_versions(report)
    assert report.finish() == 1
    assert "make setup" in report.problems[0]
    assert "  1. Detectron2 cannot be imported (ModuleNotFoundError" in capsys.readouterr().out


def test_everything_is_well_with_detectron2(
    report: doctor.Report, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("detectron2")
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert "RelationROIHeads" in out
    assert out.endswith("ok\n")


def test_a_missing_package_is_a_problem_with_the_name_to_install(
    report: doctor.Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_import(monkeypatch, "cv2", ModuleNotFoundError("No module named 'cv2'"))
    doctor.check_versions(report)
    (problem,) = [text for text in report.problems if text.startswith("cv2")]
    assert "pip install opencv-python-headless" in problem


def test_compiled_operators_of_another_torch_are_a_problem(
    report: doctor.Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("detectron2")
    break_import(monkeypatch, "detectron2._C", ImportError("undefined symbol: _ZN3c10"))
    doctor.check_versions(report)
    (problem,) = report.problems
    assert "undefined symbol" in problem and "--no-cache-dir" in problem


def test_absent_compiled_operators_are_no_problem(
    report: doctor.Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("detectron2")
    break_import(monkeypatch, "detectron2._C", ModuleNotFoundError("detectron2._C"))
    doctor.check_versions(report)
    assert report.problems == []


@pytest.mark.parametrize(("version", "remarked"), [("81.0.0", False), ("82.0.1", True)])
def test_setuptools_without_pkg_resources_is_remarked(
    version: str,
    remarked: bool,
    report: doctor.Report,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: version if name == "setuptools" else real(name)
    )
    doctor.check_versions(report)
    assert ("pkg_resources" in capsys.readouterr().out) is remarked


def test_torchvision_that_does_not_fit_is_a_problem(
    report: doctor.Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchvision = pytest.importorskip("torchvision")

    def nms(*args: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist\nmore lines")

    monkeypatch.setattr(torchvision.ops, "nms", nms)
    doctor.check_devices(report)
    assert "fail on cpu (operator torchvision::nms does not exist)" in report.problems[0]


def test_datasets_below_the_root_are_found(
    report: doctor.Report,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("relational_scenes", "birds"):
        (tmp_path / "root" / name).mkdir(parents=True)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    doctor.check_datasets(report)
    state = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert state["relational_scenes"] == state["birds"] == "found"
    assert state["coco"].startswith("not there")
    assert report.problems == []


def test_settings_that_lead_nowhere_are_problems(
    report: doctor.Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    monkeypatch.setenv("DETECTRON2_ENV_MODULE", "other.module")
    doctor.check_environment(report)
    doctor.check_datasets(report)
    assert [text.split()[0] for text in report.problems] == [
        "DETECTRON2_ENV_MODULE",
        "DETECTRON2_DATASETS",
    ]
