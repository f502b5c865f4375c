"""Hook of MkDocs: the site has the files of the repository that its pages link to, each in its
place, so that one link serves the repository and the site. `docs/api` is the rest of the site."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "README.md", "MODEL_ZOO.md", "CITATION.cff", "configs/README.md", "datasets/README.md",
    "docs/*.md", "docs/*.jpg", "docs/*.svg", "docs/*.json", "examples/*", "docs/growth/*",
    "relation_heads/data/vocabularies/*.txt",
)  # fmt: skip


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds them."""
    for pattern in FILES:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files
