"""A tenth of the sweep over Detectron2's configs: every cell works, or is refused by a sentence."""

import pytest

pytest.importorskip("detectron2")

import json
import logging
import warnings

from relation_heads.analysis.sweep import STOCK_CONFIGS, mechanism_of, registered_heads
from relation_heads.analysis.sweep_files import sweep_and_write
from relation_heads.config import get_cfg
from tests.tools.test_train_net import load_tool

FORMS = {"StandardROIHeads": "", "Res5ROIHeads": "Res5", "CascadeROIHeads": "Cascade"}


def form_of(head):
    """`Res5` of `Res5SGRNROIHeads`."""
    return next((form for form in ("Res5", "Cascade") if form in head), "")


def stock_form(config):
    """The form of a config's own ROI heads, None where there are none; its layers in a box head."""
    cfg = get_cfg()
    cfg.merge_from_file(str(STOCK_CONFIGS / config), allow_unsafe=True)
    has_heads = cfg.MODEL.META_ARCHITECTURE in ("GeneralizedRCNN", "PanopticFPN")
    form = FORMS[cfg.MODEL.ROI_HEADS.NAME] if has_heads else None
    return form, cfg.MODEL.ROI_BOX_HEAD.NUM_FC


@pytest.fixture
def run(tmp_path):
    """Runs the tool: how many cells failed, and the JSON it wrote."""
    tool, output = load_tool("sweep_stock_configs"), tmp_path / "out" / "sweep.json"

    def run(*arguments):
        with warnings.catch_warnings():
            failed = sweep_and_write(tool.parse_args([*arguments, "--output", str(output)]))
        return failed, json.loads(output.read_text())

    yield run
    logging.disable(logging.NOTSET)


def test_cells_are_printed_and_written_with_what_made_them(run, capsys):
    heads = ("RelationROIHeads", "DuplicateRemovalROIHeads")
    failed, written = run("--configs", "faster_rcnn_R_50_DC5_1x", "--heads", *heads, "--seed", "3")
    assert failed == 0 and written["seed"] == 3
    assert {"commit", "command", "machine", "seconds", "versions"} < written.keys()
    assert [(c["config"], c["result"]) for c in written["cells"]] == [
        ("COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml", "ok")
    ] * 2
    assert "| COCO-Detection/faster_rcnn_R_50_DC5_1x | ok | ok |" in capsys.readouterr().out


def test_heads_of_other_modules_are_imported(run, tmp_path, monkeypatch):
    (tmp_path / "my_heads_of_a_test.py").write_text(
        "from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads\n"
        "@ROI_HEADS_REGISTRY.register()\n"
        "class HeadsOfATest(StandardROIHeads):\n"
        "    def forward(self, *args):\n"
        "        raise RuntimeError('not written yet')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from detectron2.modeling import ROI_HEADS_REGISTRY

    monkeypatch.setattr(ROI_HEADS_REGISTRY, "_obj_map", {**ROI_HEADS_REGISTRY._obj_map})
    name, mine = "COCO-Detection/faster_rcnn_R_50_FPN_1x", ("--heads", "HeadsOfATest")
    failed, written = run("--configs", name, "--import", "my_heads_of_a_test", *mine)
    (cell,) = written["cells"]
    assert failed == 1
    assert cell["reason"] == "RuntimeError: not written yet (my_heads_of_a_test.py:5)"


def test_a_tenth_of_all_cells_works_or_is_refused_by_a_sentence(run):
    failed, written = run("--tenth")
    cells = written["cells"]
    assert failed == 0, [cell for cell in cells if cell["result"] == "FAILED"]
    assert len({cell["config"] for cell in cells}) > 30
    for cell in cells:
        head, (form, num_fc) = cell["head"], stock_form(cell["config"])
        works = form == form_of(head)
        if "Relation" in head and form != "Res5" and num_fc < 2:
            works = False  # the second module has no place
        assert cell["result"] == ("ok" if works else "refused"), cell
        assert bool(cell["compared"]) == works, cell
        if not works:
            assert cell["reason"].endswith((".", "?")) and "MODEL." in cell["reason"], cell
        if form not in (None, form_of(head)):
            other = f"{form}{mechanism_of(head)}ROIHeads"
            assert other in cell["reason"] or other not in registered_heads(), cell
