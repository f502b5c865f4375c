"""Loading a checkpoint says what became of every tensor; an evaluation wants them all."""

from __future__ import annotations

import logging
import pickle

import pytest

pytest.importorskip("detectron2")

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from relation_heads.engine.checkpoint import ReportingCheckpointer


class Detector(nn.Module):
    """Names as in a detector: 2 + 5 tensors in the backbone, 2 per layer in the heads."""

    def __init__(self, num_classes=3, relation=False):
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 1), "norm": nn.BatchNorm2d(4)})
        self.roi_heads = nn.ModuleDict({"box_predictor": nn.Linear(4, num_classes)})
        if relation:
            self.roi_heads["relation1"] = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])


@pytest.fixture
def save(tmp_path):
    def save(model, drop=()):
        state = {k: v for k, v in model.state_dict().items() if k not in drop}
        torch.save({"model": state}, tmp_path / "model.pth")
        return str(tmp_path / "model.pth")

    return save


@pytest.fixture
def log(caplog):
    """The report as it is logged."""
    logger = logging.getLogger("fvcore.common.checkpoint")
    caplog.set_level(logging.INFO, logger=logger.name)

    def lines():
        (message,) = [r.getMessage() for r in caplog.records if "in tensors" in r.getMessage()]
        return message.splitlines()[1:]

    return lines


def test_a_complete_checkpoint(save, log):
    old, new = Detector(), Detector()
    checkpointer = ReportingCheckpointer(new, complete=True)
    checkpointer.load(save(old))
    assert log() == [
        "loaded:           9 tensors",
        "new, untrained:   0 tensors",
        "skipped by shape: 0 tensors",
        "not in the model: 0 tensors",
    ]
    assert all((a == b).all() for a, b in zip(old.parameters(), new.parameters(), strict=True))
    assert checkpointer.report.untrained == ()


def test_four_lines_about_everything_at_once(save, log):
    old = Detector(num_classes=2)
    old.backbone["fc"] = nn.Linear(1, 1)
    checkpointer = ReportingCheckpointer(Detector(relation=True))
    checkpointer.load(save(old))
    assert log() == [
        "loaded:           7 tensors",
        "new, untrained:   4 tensors: roi_heads.relation1 (4)",
        "skipped by shape: 2 tensors: roi_heads.box_predictor.weight [2, 4] -> [3, 4], "
        "roi_heads.box_predictor.bias [2] -> [3]",
        "not in the model: 2 tensors: backbone.fc (2)",
    ]
    report = checkpointer.report
    assert len(report.loaded) == 7
    assert [name for name, _, _ in report.skipped] == [
        "roi_heads.box_predictor.weight",
        "roi_heads.box_predictor.bias",
    ]
    assert len(report.untrained) == 6


def test_long_lists_are_cut(save):
    model = nn.ModuleDict({f"part{k}": nn.Linear(1, 1) for k in range(8)})
    checkpointer = ReportingCheckpointer(model)
    checkpointer.load(save(nn.ModuleDict({"part7": nn.Linear(1, 1)})))
    assert "14 tensors: part0.weight (1), part0.bias (1), " in str(checkpointer.report)
    assert str(checkpointer.report).splitlines()[1].endswith(" and 10 more")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (Detector(), Detector(relation=True), r"lacks 4 tensors .*: roi_heads.relation1 \(4\)"),
        (Detector(2), Detector(3), r"lacks 2 tensors .*: roi_heads.box_predictor \(2\)"),
    ],
)
def test_an_untrained_part_is_not_evaluated(save, old, new, match):
    path = save(old)
    ReportingCheckpointer(new).load(path)  # to train it is fine
    checkpointer = ReportingCheckpointer(new, complete=True)
    with pytest.raises(ValueError, match=match) as caught:
        checkpointer.load(path)
    assert path in str(caught.value)
    checkpointer.load(save(new))  # a refusal leaves the checkpointer usable


def test_without_a_checkpoint_there_is_nothing_to_evaluate():
    assert ReportingCheckpointer(Detector()).load("") == {}
    with pytest.raises(ValueError, match="nothing to evaluate"):
        ReportingCheckpointer(Detector(), complete=True).load("")


def test_buffers_may_be_missing_and_tensors_left_over(save):
    path = save(Detector(relation=True), drop=["backbone.norm.running_var"])
    checkpointer = ReportingCheckpointer(Detector(), complete=True)
    checkpointer.load(path)
    assert checkpointer.report.new == ("backbone.norm.running_var",)
    assert len(checkpointer.report.unexpected) == 4


def test_a_parameter_loaded_under_another_name_is_not_missing(save):
    def tied():
        model = Detector()
        model.roi_heads["copy"] = model.roi_heads["box_predictor"]
        return model

    path = save(tied(), drop=["roi_heads.box_predictor.weight", "roi_heads.box_predictor.bias"])
    ReportingCheckpointer(tied(), complete=True).load(path)


def test_the_report_is_of_the_last_load(save):
    checkpointer = ReportingCheckpointer(Detector())
    checkpointer.load(save(Detector()))
    checkpointer.load("")
    assert checkpointer.report is None


def test_weights_of_another_model_are_refused(save):
    path = save(nn.ModuleDict({"encoder": nn.Linear(2, 2)}))
    with pytest.raises(ValueError, match=r"model.pth has no parameter .*2 tensors .*encoder.w"):
        ReportingCheckpointer(Detector()).load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(save, value):
    broken = Detector()
    broken.roi_heads["box_predictor"].weight.data[1, 2] = value
    with pytest.raises(ValueError, match=r"model.pth .*1 tensor: roi_heads.box_predictor.weight"):
        ReportingCheckpointer(Detector()).load(save(broken))


def trained(folder, model=None, number=1):
    """A model, its checkpointer and the state of its optimizer after `number` steps."""
    model = model or Detector()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    checkpointer = ReportingCheckpointer(model, str(folder), optimizer=optimizer)
    for step in range(number):
        model.roi_heads["box_predictor"](torch.ones(1, 4)).sum().backward()
        optimizer.step()
        checkpointer.save(f"model_{step:07d}", iteration=step)
    return checkpointer


def test_a_training_goes_on_from_its_newest_checkpoint(tmp_path):
    first = trained(tmp_path, number=3)
    second = trained(tmp_path, number=0)
    assert second.resume_or_load("", resume=True)["iteration"] == 2
    for mine, theirs in zip(second.model.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("harm", ["cut", "gone", "last gone", "last cut"])
def test_a_damaged_checkpoint_gives_its_place_to_the_one_before(tmp_path, caplog, harm):
    trained(tmp_path, number=3)
    newest, last = tmp_path / "model_0000002.pth", tmp_path / "last_checkpoint"
    if harm == "cut":
        newest.write_bytes(newest.read_bytes()[:-30])
    elif harm == "gone":
        newest.unlink()
    elif harm == "last gone":
        last.unlink()
    else:
        last.write_text("model_00")
    resumed = trained(tmp_path, number=0).resume_or_load("", resume=True)["iteration"]
    assert resumed == (2 if harm.startswith("last") else 1)
    warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    warned = [message for message in warned if "damaged" in message]
    assert len(warned) == (harm == "cut")
    assert all("model_0000002.pth" in w and "model_0000001.pth" in w for w in warned)


def test_a_folder_of_damaged_checkpoints_is_named(tmp_path):
    checkpointer = trained(tmp_path, number=2)
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"model_0000001.pth .*model_0000000.pth"):
        checkpointer.resume_or_load("", resume=True)


def test_a_training_does_not_go_on_with_another_model(tmp_path):
    trained(tmp_path)
    with pytest.raises(ValueError, match=r"(?s)model_0000000.pth is of another model.*relation1"):
        trained(tmp_path, Detector(relation=True), number=0).resume_or_load("", resume=True)


def arrays(model):
    return {key: value.numpy() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("form", ["zoo", "caffe2", "blobs"])
def test_pickles_of_weights_are_read_as_detectron2_reads_them(tmp_path, form):
    theirs, path = Detector(), tmp_path / "model.pkl"
    content = arrays(theirs)
    if form == "zoo":
        content = {"model": content, "__author__": "somebody"}
    elif form == "blobs":
        content = {"blobs": {**content, "backbone.stem.weight_momentum": np.zeros(3)}}
    path.write_bytes(pickle.dumps(content, 2))
    loaded = []
    for checkpointer in (DetectionCheckpointer, ReportingCheckpointer):
        torch.manual_seed(1)
        loaded.append(Detector())
        checkpointer(loaded[-1]).load(str(path))
    first, second = (model.state_dict() for model in loaded)
    assert all(torch.equal(first[key], second[key]) for key in first)
    if form == "zoo":
        assert all(torch.equal(first[key], value) for key, value in theirs.state_dict().items())


class Attack:
    def __reduce__(self):
        return print, ("this must not be run",)


@pytest.mark.parametrize("content", [Attack(), {"model": Attack(), "__author__": ""}, [1]])
def test_a_pickle_that_would_run_something_is_refused(tmp_path, capsys, content):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"model\.pkl is no file of weights"):
        ReportingCheckpointer(Detector()).load(str(tmp_path / "model.pkl"))
    assert "must not" not in capsys.readouterr().out
