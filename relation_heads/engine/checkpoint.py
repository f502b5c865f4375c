"""Checkpoints that can be used alone, and what a checkpoint gave the model, in four lines.

Stock loading lists every missing parameter, one group a line, and goes on; an evaluation of a head
that was never trained looks like any other. Here the log says how many tensors were loaded, which
are new, which were skipped for their shape and which were not wanted, and an evaluation stops
unless every parameter was loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _filter_reused_missing_keys, _IncompatibleKeys
from torch import nn

from ..layers.arguments import first_few
from ..modeling.torchvision_backbone import place_weights

_MAX_LISTED = 4


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

    def save(self, name: str, **kwargs: Any) -> None:
        """See `Checkpointer.save`."""
        super().save(name, **{**self.about, **kwargs})

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See `DetectionCheckpointer.load`.

        Raises:
            ValueError: `complete` is set, and parameters of the model were not loaded.
        """
        self.report = None
        extra = super().load(path, *args, **kwargs)
        if self.complete:
            _check_complete(self.report, path)
        return extra

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint: dict[str, Any] = super()._load_file(filename)
        checkpoint["model"] = place_weights(self.model, checkpoint["model"], filename)
        return checkpoint

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        self.report = _report(self.model, incompatible)
        self.logger.info(f"Checkpoint and model, in tensors:\n{self.report}")


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
