"""`python -m relation_heads.doctor`: what is installed, what is registered, what is missing.

Prints versions, devices, registered names, environment variables and data sets, then `ok` or a
numbered list of problems with what to do about each. Exit code 0 or 1. Works without Detectron2,
which is then one of the problems. Where the package itself cannot be imported, run this file:
`python relation_heads/doctor.py`.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType

ENVIRONMENT = (
    "DETECTRON2_DATASETS",
    "DETECTRON2_ENV_MODULE",
    "RELATION_HEADS_DATASETS",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)
# Folder below the root of the data sets -> how to get it. Other folders found there are listed.
DATASETS = {
    "relational_scenes": "python datasets/make_relational_scenes.py",
    "coco": "https://cocodataset.org, unpacked as in Detectron2's datasets/README.md",
}
PACKAGES = ("torch", "torchvision", "numpy", "pycocotools", "fvcore", "cv2")
TABLE = "  {:<24}{}"


class Report:
    """Collects the problems while the sections are printed."""

    def __init__(self, out: Callable[[str], None] = print) -> None:
        self.out = out
        self.problems: list[str] = []

    def section(self, title: str) -> None:
        self.out(f"{title}:")

    def line(self, name: str, value: object) -> None:
        self.out(TABLE.format(name, value))

    def problem(self, sentence: str) -> None:
        self.problems.append(sentence)

    def finish(self) -> int:
        """Prints `ok` or the numbered problems.

        Returns:
            the exit code: 0, or 1 if there is a problem.
        """
        if not self.problems:
            self.out("ok")
            return 0
        self.out("problems:")
        for number, sentence in enumerate(self.problems, 1):
            self.out(f"  {number}. {sentence}")
        return 1


def try_import(name: str) -> tuple[ModuleType | None, str]:
    """Imports a module without its warnings.

    Returns:
        the module and "", or None and what went wrong in one line.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name), ""
    except Exception as error:  # a broken installation raises anything, not only ImportError
        text = " ".join(str(error).split())
        return None, f"{type(error).__name__}: {text}"


def check_versions(report: Report) -> None:
    """Python and the packages that everything needs."""
    report.section("versions")
    report.line("python", f"{platform.python_version()} ({sys.executable})")
    for name in PACKAGES:
        module, error = try_import(name)
        report.line(name, _version(module, name) if module else error)
        if module is None:
            package = "opencv-python-headless" if name == "cv2" else name
            report.problem(f"{name} cannot be imported ({error}): pip install {package}.")
    _check_setuptools(report)
    _check_detectron2(report)


def _version(module: ModuleType, package: str) -> str:
    version = getattr(module, "__version__", None)
    try:
        return str(version or metadata.version(package))
    except metadata.PackageNotFoundError:
        return "version unknown"


def _check_setuptools(report: Report) -> None:
    try:
        version = metadata.version("setuptools")
    except metadata.PackageNotFoundError:
        report.line("setuptools", "not installed")
        return
    if int(version.split(".")[0]) < 82:
        report.line("setuptools", version)
    else:  # relation_heads does not use it, so this is a remark and no problem
        remark = "without pkg_resources: detectron2.model_zoo cannot be imported; it needs < 82"
        report.line("setuptools", f"{version} ({remark})")


def _check_detectron2(report: Report) -> None:
    module, error = try_import("detectron2")
    if module is not None:
        _, error = try_import("detectron2.engine")  # needs OpenCV, tensorboard and more
    if module is None or error:
        report.line("detectron2", error)
        report.problem(
            f"Detectron2 cannot be imported ({error}): `make setup` installs it. Without it only "
            "relation_heads.layers works."
        )
        return
    compiled, error = try_import("detectron2._C")
    state = "with" if compiled else "without, which Faster R-CNN does not need"
    report.line("detectron2", f"{_version(module, 'detectron2')} (compiled operators: {state})")
    if compiled is None and not error.startswith("ModuleNotFoundError"):
        report.problem(
            f"Detectron2's compiled operators are there but cannot be loaded ({error}): they were "
            "compiled for another torch; install Detectron2 again with pip's --no-cache-dir."
        )


def check_devices(report: Report) -> None:
    """CPU threads and CUDA devices, and whether torchvision's operators fit the torch."""
    torch, _ = try_import("torch")
    if torch is None:
        return
    report.section("devices")
    report.line("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch")
    if not torch.cuda.is_available():
        report.line("cuda", "no usable GPU; set MODEL.DEVICE cpu")
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        name = torch.cuda.get_device_name(index)
        report.line(f"cuda:{index}", f"{name}, compute capability {major}.{minor}")
    _check_operators(report, torch)


def _check_operators(report: Report, torch: ModuleType) -> None:
    """Runs NMS once per kind of device, which fails where torch and torchvision do not match."""
    torchvision, _ = try_import("torchvision")
    if torchvision is None:
        return
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        try:
            boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]], device=device)
            torchvision.ops.nms(boxes, boxes[:, 2], 0.5)
        except (RuntimeError, AttributeError) as error:
            report.problem(
                f"torchvision's operators fail on {device} ({str(error).splitlines()[0]}): "
                "install the torchvision that belongs to this torch."
            )


def check_registries(report: Report) -> None:
    """The names that `import relation_heads` adds to Detectron2's registries."""
    report.section("relation_heads")
    package, error = try_import("relation_heads")
    report.line("version", _version(package, "relation_heads") if package else error)
    if package is None:
        report.problem(f"relation_heads cannot be imported: {error}.")
        return
    modeling, _ = try_import("detectron2.modeling")
    if modeling is None:
        return  # reported by check_versions
    for title, registry in (
        ("ROI_HEADS", modeling.ROI_HEADS_REGISTRY),
        ("ROI_BOX_HEAD", modeling.ROI_BOX_HEAD_REGISTRY),
        ("BACKBONE", modeling.BACKBONE_REGISTRY),
    ):
        report.line(title, ", ".join(_ours(registry)) or "nothing of relation_heads")
    if not _ours(modeling.ROI_HEADS_REGISTRY):
        report.problem(
            f"`import relation_heads` registers no heads: is {package.__file__} the copy you mean?"
        )


def _ours(registry: object) -> list[str]:
    """The names in a registry whose object is defined in this package."""
    return sorted(name for name, value in registry if value.__module__.startswith("relation_heads"))


def check_environment(report: Report) -> None:
    """The environment variables that change what runs."""
    report.section("environment")
    for name in ENVIRONMENT:
        report.line(name, os.environ.get(name, "not set"))
    module = os.environ.get("DETECTRON2_ENV_MODULE", "")
    if module not in ("", "relation_heads.d2_env", "relation_heads.registration"):
        report.problem(
            f"DETECTRON2_ENV_MODULE is {module}, so Detectron2's own tools do not know "
            "relation_heads: set it to relation_heads.d2_env, or unset it and use our tools."
        )


def check_datasets(report: Report) -> None:
    """The data sets below the root. A missing one is no problem: nobody needs all of them."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    report.section(f"data sets below {root.resolve()}")
    if "DETECTRON2_DATASETS" in os.environ and not root.is_dir():
        report.problem(f"DETECTRON2_DATASETS is {root}, which is not a folder.")
    found = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for name in (*DATASETS, *(name for name in found if name not in DATASETS)):
        report.line(name, "found" if name in found else f"not there; get it: {DATASETS[name]}")


def main() -> int:
    """Prints everything; returns the exit code."""
    report = Report()
    check_versions(report)
    check_devices(report)
    check_registries(report)
    check_environment(report)
    check_datasets(report)
    return report.finish()


if __name__ == "__main__":
    if not __package__:  # run as a file: the package lies beside it, its modules are not top level
        sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(main())
