"""Checkpoints that can be used alone, and what a checkpoint gave the model, in four lines.

Stock loading lists every missing parameter, one group a line, and goes on; an evaluation of a head
that was never trained looks like any other. Here the log says how many tensors were loaded, which
are new, which were skipped for their shape and which were not wanted, and an evaluation stops
unless every parameter was loaded. A file is either complete or not there, and a training goes on
from the newest complete one: PyTorch writes ZIP archives, which have a checksum of every tensor.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _filter_reused_missing_keys, _IncompatibleKeys
from torch import Tensor, nn

from ..data.array_pickle import read_plain
from ..data.files import replacing
from ..layers.arguments import first_few
from ..modeling.torchvision_backbone import place_weights

_MAX_LISTED = 4
LAST = "last_checkpoint"  # the file that has the name of the newest checkpoint
SAVED = "model_*.pth"
OLD_FORMAT = b"\x80\x02"  # of PyTorch before 1.6: a pickle


@dataclass(frozen=True)
class LoadReport:
    """Names of the tensors of a model and of a checkpoint, by what became of them.

    Attributes:
        loaded: taken over.
        new: not in the checkpoint, so they keep their initial values.
        skipped: (name, shape in the checkpoint, shape in the model) of those that do not fit.
        unexpected: in the checkpoint alone.
        untrained: the parameters, not buffers, among `new` and `skipped`.
    """

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    skipped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    unexpected: tuple[str, ...]
    untrained: tuple[str, ...]

    def __str__(self) -> str:
        skipped = [f"{name} {list(theirs)} -> {list(ours)}" for name, theirs, ours in self.skipped]
        lines = [
            ("loaded", self.loaded, []),
            ("new, untrained", self.new, _by_prefix(self.new)),
            ("skipped by shape", self.skipped, skipped),
            ("not in the model", self.unexpected, _by_prefix(self.unexpected)),
        ]
        return "\n".join(f"{t + ':':18}{_count(n)}{_listed(parts)}" for t, n, parts in lines)


class ReportingCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` that reports in four lines what was loaded.

    It also reads torchvision's own files of weights, for `build_torchvision_backbone`.

    Attributes:
        report: of the last `load`; None if nothing was loaded.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        complete: bool = False,
        about: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            model: as in `DetectionCheckpointer`.
            save_dir: as in `DetectionCheckpointer`.
            complete: refuse a checkpoint that leaves a parameter of the model untrained.
            about: what is saved beside the weights, of plain values, see
                `model_config.about_model`.
            kwargs: as in `DetectionCheckpointer`.
        """
        super().__init__(model, save_dir, **kwargs)
        self.complete = complete
        self.about = dict(about or {})
        self.report: LoadReport | None = None
        self._whole = ""  # the file that was found complete, to be read for that only once

    def save(self, name: str, **kwargs: Any) -> None:
        """See `Checkpointer.save`; a process that is killed in it leaves the files of before."""
        if not (self.save_dir and self.save_to_disk):
            return
        content = {"model": self.model.state_dict()}
        content |= {key: value.state_dict() for key, value in self.checkpointables.items()}
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        with replacing(path, "wb") as file:
            torch.save({**content, **self.about, **kwargs}, file)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """See `Checkpointer.tag_last_checkpoint`."""
        with replacing(Path(self.save_dir, LAST), "w") as file:
            file.write(last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Whether `save_dir` has a checkpoint, complete or not."""
        return bool(saved_in(self.save_dir))

    def get_checkpoint_file(self) -> str:
        """The newest complete checkpoint in `save_dir`, "" if there is none.

        Raises:
            ValueError: all of them are damaged.
        """
        damaged = []
        for path in saved_in(self.save_dir):
            reason = damage(path)
            if not reason:
                if damaged:
                    self.logger.warning(f"{'; '.join(damaged)}; going on from {path}.")
                self._whole = str(path)
                return self._whole
            damaged.append(f"{path} is damaged ({reason})")
        if damaged:
            raise ValueError(f"{'; '.join(damaged)}; {self.save_dir} has no other checkpoint.")
        return ""

    def load(
        self, path: str, checkpointables: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """See `DetectionCheckpointer.load`.

        Raises:
            ValueError: the file is damaged, none of its parameters is one of the model, or some are
                not finite; `complete` is set or the training is resumed, and parameters of the
                model were not loaded.
        """
        self.report, self._resuming = None, bool(self.checkpointables) and checkpointables is None
        extra = super().load(path, checkpointables, **kwargs)
        if self.complete:
            _check_complete(self.report, path)
        return extra

    def _load_file(self, filename: str) -> dict[str, Any]:
        self._file = filename
        if filename.endswith(".pth") and filename != self._whole:
            if reason := damage(Path(filename)):
                raise ValueError(f"{filename} is damaged: {reason}.")
        if filename.endswith(".pkl"):
            checkpoint = _read_pickle(filename)
        else:
            try:
                checkpoint = super()._load_file(filename)
            except Exception as error:  # what no checkpoint is fails in many ways
                if isinstance(error, OSError) and error.filename:
                    raise
                raise ValueError(
                    f"{filename} is not a checkpoint that can be read safely: {_first_line(error)}"
                ) from error
        _check_weights(checkpoint["model"], filename)
        checkpoint["model"] = place_weights(self.model, checkpoint["model"], filename)
        return checkpoint

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        self.report = report = _report(self.model, incompatible)
        self.logger.info(f"Checkpoint and model, in tensors:\n{report}")
        if self._resuming:  # the optimizer comes next, and has no names
            _check_same_model(report, self._file)
        _check_loaded(self.model, report, self._file)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _check_weights(weights: Any, path: str) -> None:
    """They are tensors or arrays by name."""
    if not isinstance(weights, Mapping):
        raise ValueError(f"{path} has no weights by name: 'model' is a {type(weights).__name__}.")
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray | Tensor):
            raise ValueError(
                f"{path} must have tensors by name, and has {name!r}: a {type(value).__name__}."
            )


def _read_pickle(path: str) -> dict[str, Any]:
    """Weights of Detectron2's model zoo, or of Detectron and Caffe2 (msra's); runs nothing.

    Raises:
        ValueError: it holds something else than arrays by name.
    """
    try:
        content = read_plain(Path(path).read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it holds no weights by name")
    except OSError:
        raise
    except Exception as error:  # a broken pickle raises whatever it likes
        raise ValueError(
            f"{path} is no file of weights that can be read safely: {error}."
        ) from None
    if "model" in content and "__author__" in content:
        return content
    weights = content.get("blobs", content)
    weights = {k: v for k, v in weights.items() if not k.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def damage(path: Path) -> str:
    """What is wrong with a file of PyTorch, "" if nothing is; reads all of it.

    Files of before PyTorch 1.6 have no checksums: nothing is found in them.
    """
    try:
        with path.open("rb") as file:
            start = file.read(2)
        if start != b"PK":
            return "" if start == OLD_FORMAT else "it is no file of PyTorch"
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except Exception as error:  # a damaged archive has no common error
        return f"{type(error).__name__}: {error}"
    return f"the checksum of {wrong} does not match" if wrong else ""


def saved_in(folder: str) -> list[Path]:
    """The checkpoints of a training in its `OUTPUT_DIR`, the newest first."""
    root, newest = Path(folder), None
    with suppress(OSError):
        newest = root / (root / LAST).read_text().strip()
    saved = sorted(root.glob(SAVED), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    named = [newest] if newest and newest.is_file() else []
    return [*named, *(path for path in saved if path not in named)]


def _report(model: nn.Module, incompatible: _IncompatibleKeys) -> LoadReport:
    skipped = {row[0]: row for row in incompatible.incorrect_shapes}
    # A tensor of the wrong shape is also missing; one loaded under another name is not.
    missing = set(_filter_reused_missing_keys(model, incompatible.missing_keys)) - skipped.keys()
    names = list(model.state_dict())
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    left_out = missing | skipped.keys()
    return LoadReport(
        loaded=tuple(name for name in names if name not in left_out),
        new=tuple(name for name in names if name in missing),
        skipped=tuple(skipped.values()),
        unexpected=tuple(incompatible.unexpected_keys),
        untrained=tuple(name for name in names if name in left_out & parameters),
    )


def _check_same_model(report: LoadReport, path: str) -> None:
    if report.new or report.skipped or report.unexpected:
        raise ValueError(
            f"{path} is of another model, so its training cannot go on with this one:\n{report}\n"
            "Use the config it was trained with, or another OUTPUT_DIR."
        )


def _check_loaded(model: nn.Module, report: LoadReport, path: str) -> None:
    """Something was loaded, and all of it is finite."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    loaded = [name for name in report.loaded if name in parameters]
    if not loaded:
        raise ValueError(
            f"{path} has no parameter of this model: it has {_count(report.unexpected)} of other "
            f"names{_listed(_by_prefix(report.unexpected))}, and {len(report.skipped)} of other "
            "shapes."
        )
    broken = [name for name in loaded if not parameters[name].isfinite().all()]
    if broken:
        raise ValueError(
            f"{path} has numbers that are not finite in {_count(broken)}{_listed(broken)}; it was "
            "saved by a training that diverged."
        )


def _check_complete(report: LoadReport | None, path: str) -> None:
    if report is None:
        raise ValueError(
            "There is nothing to evaluate: MODEL.WEIGHTS is empty, and no checkpoint was resumed."
        )
    if report.untrained:
        raise ValueError(
            f"{path} lacks {_count(report.untrained)} of this model, or has another shape for them"
            f"{_listed(_by_prefix(report.untrained))}; an untrained part would be evaluated."
        )


def _count(items: Sequence[Any]) -> str:
    return f"{len(items)} tensor{'' if len(items) == 1 else 's'}"


def _by_prefix(names: Sequence[str]) -> list[str]:
    """`roi_heads.box_head (4)`: the first two parts of the names, and how many share them."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return [f"{prefix} ({count})" for prefix, count in counts.items()]


def _listed(items: Sequence[str]) -> str:
    """`: a, b, c, d and 3 more`, or nothing."""
    return f": {first_few(items, _MAX_LISTED)}" if items else ""
