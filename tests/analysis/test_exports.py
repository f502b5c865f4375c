"""The table of exports: what is tried, and that a wrong file is not "ok"."""

import pytest

pytest.importorskip("detectron2")

import torch

from relation_heads.analysis import exports
from relation_heads.analysis.exports import Cell


def test_table():
    cells = [
        Cell("stock", "whole detector", "trace", "ok"),
        Cell("stock", "box branch", "ONNX", "no", "Error: because"),
        Cell("Soft-NMS", "whole detector", "trace", "no", "Error: because"),
    ]
    lines = exports.table(cells).splitlines()
    assert lines[2] == "| stock | ok |  |  |  |  |  |  | no [1] |"
    assert lines[3] == "| Soft-NMS | no [1] |  |  |  |" + " as stock |" * 4
    assert lines[-1] == "1. `Error: because`"


class Doubled(torch.nn.Module):
    """The double of its input; as a constant, where somebody traces it."""

    def forward(self, x):
        return (2 * x, torch.ones(len(x) if torch.jit.is_tracing() else x.shape[0]))


def test_what_holds_for_one_size_only_is_said(monkeypatch):
    examples = [(torch.randn(n),) for n in (3, 5)]
    monkeypatch.setitem(exports.EXPORTS, "right", lambda module, example: module)
    assert exports._tried("right", Doubled(), examples) == ""
    monkeypatch.setitem(exports.EXPORTS, "wrong", lambda m, e: lambda x: (2 * x + 1, m(x)[1]))
    assert exports._tried("wrong", Doubled(), examples).startswith("differs by 1.0e+00")
    assert exports._tried("trace", Doubled(), examples).startswith("gives (3,) instead of (5,)")


@pytest.mark.parametrize("name", exports.DETECTORS)
def test_every_row_is_the_detector_that_it_says(name):
    model, pictures = exports.build(name)
    heads = type(model.roi_heads).__name__.lower()
    mechanism = name if name in ("relation", "SGRN", "reasoning") else ""
    assert mechanism.lower() in heads
    assert model.roi_heads.box_predictor.test_score_thresh == 0
    assert any("gc" in n for n, _ in model.named_modules()) == (name == "GC blocks")
    end = getattr(model.roi_heads, "end", None)
    ends = {"Soft-NMS": "soft_nms", "learned duplicate removal": "learned"}
    assert getattr(end, "method", "nms") == ends.get(name, "nms")
    assert [image.shape[1:] for image in pictures] == list(exports.SIZES)


def test_a_reason_names_no_folder_of_a_machine():
    error = RuntimeError('Unknown type: File "/opt/venv/lib/torch/nn/module.py", line 8')
    assert exports.one_line(error) == 'RuntimeError: Unknown type: File "module.py", line 8'
    assert exports.one_line(ValueError("a / b at 3/4")) == "ValueError: a / b at 3/4"
