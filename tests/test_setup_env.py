"""tools/setup_env.sh: every fault ends in one sentence with what to do, before any download."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "setup_env.sh"
TOOLS = "awk bash cat cksum cp df dirname env grep mkdir mktemp rm sleep tail tar tr"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the script needs bash")


class Machine:
    """A folder of programs that is the whole PATH, and a checkout with nothing but the script."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.root = folder / "checkout"
        self.bin.mkdir()
        (self.root / "tools").mkdir(parents=True)
        shutil.copy(SCRIPT, self.root / "tools")
        for name in ("requirements.txt", "requirements-dev.txt"):
            (self.root / name).write_text("torch\n")
        for name in TOOLS.split():
            self.link(name)
        self.program("c++", "exit 0")
        self.program("git", "exit 0")
        self.python("3.12")

    def link(self, name: str) -> None:
        (self.bin / name).symlink_to(shutil.which(name) or f"/bin/{name}")

    def program(self, name: str, body: str) -> None:
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!{self.bin}/bash\n{body}\n")
        (self.bin / name).chmod(0o755)

    def python(self, version: str, *, fails: str = "nothing", name: str = "python3") -> None:
        """A python that notes its arguments, makes copies of itself as environments, knows its
        version, and fails when one of `fails` (a|b) is in its arguments. It runs nothing."""
        patterns = "|".join(f'*"{text}"*' for text in fails.split("|"))
        self.program(
            name,
            f'echo "$*" >>{self.root}/calls\n'
            f'case "$*" in\n{patterns}) echo "there is no {fails}" >&2; exit 1 ;;\n'
            f"*version_info*) echo {version} ;;\n"
            '"-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;\nesac',
        )

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / "bash", self.root / "tools" / "setup_env.sh", *arguments],
            env={"PATH": str(self.bin), "HOME": str(self.root), "MIN_DISK_GB": "0", **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def complaint(self, *arguments: str, **variables: str) -> str:
        """The one line on stderr of a run that must fail."""
        result = self.run(*(arguments or ("--check",)), **variables)
        assert result.returncode == 1, result
        (line,) = result.stderr.splitlines()
        return line

    def calls(self) -> str:
        """What the pythons were asked for since the last time this was asked."""
        text = (self.root / "calls").read_text()
        (self.root / "calls").write_text("")
        return text

    def result(self) -> dict[str, str]:
        lines = (self.root / "build" / "env.sh").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_machine_with_everything_passes(machine: Machine) -> None:
    result = machine.run("--check")
    assert (result.returncode, result.stderr) == (0, "")
    assert "nothing is in the way: python3" in result.stdout


def test_missing_git(machine: Machine) -> None:
    (machine.bin / "git").unlink()
    line = machine.complaint()
    assert "git is not installed" in line and "DETECTRON2=" in line


def test_missing_compiler(machine: Machine) -> None:
    machine.program("c++", "exit 1")  # one without its headers counts as missing
    assert "no working C++ compiler" in machine.complaint()
    assert "CXX=" in machine.complaint()


def test_another_compiler_is_found(machine: Machine) -> None:
    machine.program("c++", "exit 1")
    machine.program("clang++", "exit 0")
    assert machine.run("--check").returncode == 0


def test_python_that_is_too_old(machine: Machine) -> None:
    machine.python("3.8")
    line = machine.complaint()
    assert "python3 is 3.8" in line and "BASE_PYTHON=" in line


def test_another_python_is_found(machine: Machine) -> None:
    machine.python("3.9")
    machine.python("3.12", name="python3.12")
    assert "python3.12" in machine.run("--check").stdout


def test_python_that_is_newer_than_tested_is_used_with_a_warning(machine: Machine) -> None:
    machine.python("3.15")
    result = machine.run("--check")
    assert result.returncode == 0
    assert "newer than the tested" in result.stderr


def test_no_python(machine: Machine) -> None:
    (machine.bin / "python3").unlink()
    assert "none of python3 " in machine.complaint()
    assert "none of /no/python can be run" in machine.complaint(BASE_PYTHON="/no/python")


def test_python_without_venv(machine: Machine) -> None:
    machine.python("3.12", fails="ensurepip")
    assert "python3-venv" in machine.complaint()


def test_python_without_headers(machine: Machine) -> None:
    machine.python("3.12", fails="Python.h")
    assert "python3-dev" in machine.complaint()


def test_full_disk(machine: Machine) -> None:
    line = machine.complaint(MIN_DISK_GB="1000000")
    assert "GB are free" in line and "VENV=" in line


def test_repository_that_is_not_there(machine: Machine) -> None:
    (machine.bin / "git").unlink()
    machine.link("git")
    line = machine.complaint(DETECTRON2="git+file:///nowhere/detectron2.git@0123abc")
    assert "file:///nowhere/detectron2.git cannot be read (fatal: " in line
    assert "DETECTRON2=/path/to/checkout" in line


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("git+https://host/a/detectron2.git@0123abc", "https://host/a/detectron2.git"),
        ("git+https://host/a/detectron2.git", "https://host/a/detectron2.git"),
        ("git+ssh://git@host/a/detectron2.git@0123", "ssh://git@host/a/detectron2.git"),
        ("git+ssh://git@host/detectron2.git", "ssh://git@host/detectron2.git"),
    ],
)
def test_the_revision_is_no_part_of_the_url(machine: Machine, source: str, url: str) -> None:
    machine.program("git", 'echo "fatal: asked for $2" >&2; exit 128')
    assert f"(fatal: asked for {url})" in machine.complaint(DETECTRON2=source)


def test_sources_that_are_files(machine: Machine, tmp_path: Path) -> None:
    assert "neither" in machine.complaint(DETECTRON2=str(tmp_path))
    assert "does not exist" in machine.complaint(DETECTRON2=str(tmp_path / "d.whl"))
    (tmp_path / "setup.py").touch()
    (tmp_path / "d.whl").touch()
    for name in (".", "d.whl"):
        assert machine.run("--check", DETECTRON2=str(tmp_path / name)).returncode == 0
    (machine.bin / "c++").unlink()  # a wheel needs no compiler, a folder does
    assert machine.run("--check", DETECTRON2=str(tmp_path / "d.whl")).returncode == 0
    assert "compiler" in machine.complaint(DETECTRON2=str(tmp_path))


def test_required_detectron2_fails_before_anything_is_made(machine: Machine) -> None:
    (machine.bin / "git").unlink()
    machine.python("3.12", fails="import detectron2")
    result = machine.run(REQUIRE_DETECTRON2="1")
    assert result.returncode == 1
    assert "git is not installed" in result.stderr
    assert not (machine.root / ".venv").exists()
    assert not (machine.root / "build").exists()


def test_python_with_detectron2_is_used_as_it_is(machine: Machine) -> None:
    result = machine.run(PYTHON=str(machine.bin / "python3"))
    assert (result.returncode, result.stderr) == (0, "")
    assert machine.result() == {"PY": f"{machine.bin}/python3", "WITHOUT_DETECTRON2": "''"}
    assert not (machine.root / ".venv").exists()


def test_python_without_detectron2_is_recorded_or_refused(machine: Machine) -> None:
    machine.python("3.12", fails="import detectron2")
    python = str(machine.bin / "python3")
    result = machine.run(PYTHON=python)
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert "there is no import detectron2" in line and "pip install --no-build-isolation" in line
    assert "there\\ is\\ no\\ import" in machine.result()["WITHOUT_DETECTRON2"]
    assert machine.run(PYTHON=python, REQUIRE_DETECTRON2="1").returncode == 1


def test_python_without_torch_is_refused(machine: Machine) -> None:
    machine.program(
        "python3", 'case "$*" in *version_info*) echo 3.12 ;; *torch*) echo torch ;; esac'
    )
    line = machine.complaint("", PYTHON=str(machine.bin / "python3"))
    assert "lacks: torch" in line and "requirements.txt" in line
    assert "cannot be run" in machine.complaint("", PYTHON="/no/python")


def test_the_environment_is_made_once_and_again_when_requirements_change(machine: Machine) -> None:
    machine.python("3.12", fails="torchvision, pycocotools")  # this python3 does not suit as it is
    result = machine.run()
    assert (result.returncode, result.stderr) == (0, "")
    assert machine.result()["PY"] == f"{machine.root}/.venv/bin/python"
    calls = machine.calls()
    steps = ["-m venv", "-m pip install -q uv==", "-m uv pip install", "-e ", "import detectron2"]
    places = [calls.rindex(step) if step == steps[-1] else calls.index(step) for step in steps]
    assert places == sorted(places)
    (build,) = [call for call in calls.splitlines() if "git+https" in call]
    assert "--no-build-isolation --no-deps --no-cache-dir" in build

    assert machine.run().stdout == ""
    assert machine.calls() == ""

    with (machine.root / "requirements.txt").open("a") as file:
        file.write("numpy\n")
    machine.run()
    calls = machine.calls()
    assert "-m uv pip install" in calls and "git+https" in calls and "-m venv" not in calls


def test_a_chosen_source_of_detectron2_is_remembered(machine: Machine, tmp_path: Path) -> None:
    machine.python("3.12", fails="torchvision, pycocotools")
    machine.run()
    machine.calls()
    (tmp_path / "d.whl").touch()
    machine.run(DETECTRON2=f"{tmp_path}/d.whl")
    assert "d.whl" in machine.calls()
    assert machine.run().returncode == 0
    assert machine.calls() == ""  # not fetched from upstream because the variable is gone


def test_the_rest_is_made_and_the_next_run_tries_again(machine: Machine) -> None:
    machine.python("3.12", fails="import detectron2|force-reinstall")
    machine.program("git", 'echo "fatal: no route" >&2; exit 128')
    result = machine.run()
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert "fatal: no route" in line and "Going on without Detectron2" in line
    assert "no\\ route" in machine.result()["WITHOUT_DETECTRON2"]
    assert "-e " in machine.calls()

    machine.program("git", "exit 0")
    result = machine.run()
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert "Detectron2 could not be built: there is no" in line and "setup_env.log" in line
    calls = machine.calls()
    assert "git+https" in calls and "-m uv" not in calls  # only what was missing
    reason = machine.result()["WITHOUT_DETECTRON2"]

    assert machine.run().returncode == 0  # does not compile again unless asked to
    assert machine.calls() == ""
    assert machine.result()["WITHOUT_DETECTRON2"] == reason
    assert machine.run("--retry").returncode == 0
    assert "git+https" in machine.calls()
    assert machine.run(REQUIRE_DETECTRON2="1").returncode == 1
    assert "git+https" in machine.calls()


@pytest.mark.parametrize(
    ("toolkit", "built", "force", "problem"),
    [
        ("12.4", "13.2", "1", True),
        ("13.0", "13.2", "1", False),  # a minor difference compiles
        ("12.4", "13.2", "0", False),  # no GPU is visible, so no CUDA code is compiled
        (None, "13.2", "1", True),
        ("13.2", None, "1", True),
    ],
)
def test_cuda_toolkit_and_torch(
    tmp_path: Path, toolkit: str | None, built: str | None, force: str, problem: bool
) -> None:
    home = tmp_path / "cuda"
    extension = tmp_path / "torch" / "utils" / "cpp_extension.py"
    (home / "bin").mkdir(parents=True)
    extension.parent.mkdir(parents=True)
    (home / "bin" / "nvcc").write_text(f"#!/bin/sh\necho 'tools, release {toolkit}, V1'\n")
    (home / "bin" / "nvcc").chmod(0o755)
    extension.write_text(f"CUDA_HOME = {str(home) if toolkit else None!r}\n")
    (tmp_path / "torch" / "__init__.py").write_text(
        f"class version: cuda = {built!r}\nclass cuda: is_available = lambda: False\n"
    )
    result = subprocess.run(
        ["bash", "-c", f'source "{SCRIPT}"; cuda_problem "{sys.executable}"'],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "FORCE_CUDA": force},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert ("CUDA_HOME" in result.stdout) is problem
    assert len(result.stdout.splitlines()) == int(problem)


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("a\n  /bin/sh: 1: c++: not found\nRuntimeError: Error compiling\n", "c++: not found"),
        ("x.cpp:3:10: fatal error: nope.h: No such file\nerror: command failed\n", "nope.h"),
        ("g++: fatal error: Killed signal terminated program cc1plus\n", "MAX_JOBS=1"),
        ("error: subprocess-exited-with-error\n  ValueError: bad\n", "ValueError: bad"),
        ("something\nlast words\n", "last words"),
    ],
)
def test_the_line_of_the_log_that_matters(tmp_path: Path, log: str, line: str) -> None:
    (tmp_path / "log").write_text(log)
    result = subprocess.run(
        ["bash", "-c", f'source "{SCRIPT}"; LOG="{tmp_path}/log"; essence'],
        capture_output=True,
        text=True,
    )
    assert line in result.stdout
    assert len(result.stdout.splitlines()) == 1
