"""A recorded training: what is in the file, and its curves."""

import pytest

pytest.importorskip("detectron2")

import json
import math
from xml.etree import ElementTree

import torch
from torch import nn

from relation_heads.analysis import growth_table
from relation_heads.analysis.curves import chosen, draw
from relation_heads.analysis.growth import Probes
from relation_heads.config import get_cfg
from relation_heads.engine.growth import Growth
from relation_heads.layers import SGRN, ObjectRelation, Regions
from tests.helpers import tiny_cfg, tiny_coco, unregister
from tests.tools.test_train_net import load_tool

HEAD = [
    "MODEL.ROI_HEADS.NAME", "RelationROIHeads", "MODEL.ROI_BOX_HEAD.NAME", "RelationBoxHead",
    "MODEL.RELATION.NUM_HEADS", 4, "MODEL.RELATION.KEY_DIM", 8, "SOLVER.MAX_ITER", 6,
]  # fmt: skip


@pytest.fixture
def record(tmp_path):
    """Runs the tool on a tiny detector with relation modules: the JSON that it wrote."""
    coco, tool = tiny_coco(tmp_path), load_tool("record_growth")
    base, output = tmp_path / "tiny.yaml", tmp_path / "results" / "tiny.json"
    cfg = tiny_cfg(["flagged"], ["flagged"], 3, tmp_path / "out", HEAD, base=get_cfg())
    base.write_text(cfg.dump())

    def record(*opts):
        tool.main(
            ["--config-file", str(base), "--dataset", "flagged", str(coco.json_file),
             str(coco.image_root), "--seed", "3", "--output", str(output), *opts]
        )  # fmt: skip
        assert not (tmp_path / "out" / "model_final.pth").exists()
        return json.loads(output.read_text())

    yield record
    unregister("flagged")


def test_a_training_that_ends(record, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["record_growth.py", "--seed", "3"])
    written = record()
    assert written["diverged"] is None and written["iterations"] == list(range(6))
    assert written["seed"] == 3 and {"commit", "command", "machine", "versions"} < written.keys()
    assert written["command"].startswith("tools/record_growth.py ")
    module = "roi_heads.box_head.relation1.0"
    for name in (f"{module}:f", f"{module}:logits", f"{module}.query", f"{module}.key",
                 f"{module}.value", module, "backbone[p2]"):  # fmt: skip
        assert len(written["sizes"][name]) == len(written["gradients"][name]) == 6
        assert all(size > 0 for size in written["sizes"][name][1:])
    assert written["sizes"][f"{module}:residual"][0] == 0  # the identity at the start
    assert all(0 <= s < 1 for s in written["numbers"][f"{module}:gate share at floor"])
    losses = written["losses"]
    parts = [losses[n] for n in losses if n not in ("total_loss", "lr")]
    assert [sum(x) for x in zip(*parts, strict=True)] == pytest.approx(
        losses["total_loss"], rel=1e-3
    )
    assert "No divergence in 6 iterations." in capsys.readouterr().out


def test_a_training_that_diverges_is_recorded_up_to_there(record):
    written = record("SOLVER.BASE_LR", "1e9", "SOLVER.MAX_ITER", "50", "SOLVER.WARMUP_ITERS", "0")
    assert written["diverged"].startswith("Training diverged at iteration ")
    last = written["iterations"][-1]
    assert last < 49 and f"at iteration {last} " in written["diverged"]
    assert written["losses"]["total_loss"][-1] is None  # it was not logged


def regions():
    boxes = 50 * torch.rand(7, 4)
    boxes[:, 2:] += boxes[:, :2] + 5
    return Regions.from_boxes([boxes[:4], boxes[4:]], [(100, 100)] * 2)


@pytest.mark.parametrize("geometry", ["relation", "none"])
def test_probes_of_a_relation_module_change_nothing(geometry):
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"r": ObjectRelation(16, num_heads=2, key_dim=4, init="xavier", geometry=geometry)}
    )
    f, where = torch.randn(7, 16, requires_grad=True), regions()
    expected = model["r"](f, where)
    weights = model["r"].weights(f, where)
    growth = Growth(model)
    probes = Probes(model, growth)
    with growth.iteration(5):
        found = model["r"](f, where)
        found.square().sum().backward()
    torch.testing.assert_close(found, expected)
    sizes = {str(s): s.values[5] for s in growth.series()}
    assert sizes["r:residual"] == pytest.approx(
        float((expected - f).detach().square().mean().sqrt())
    )
    assert sizes["the gradient of r:logits"] > 0
    numbers = {name: [float(x) for x in values[5]] for name, values in probes.numbers.items()}
    if geometry == "none":  # logits are those of the weights, up to a constant of the row
        logits = [w.log() for w in weights]
        assert numbers.keys() == {"r:logits std over keys", "r:logits max"}
        assert numbers["r:logits std over keys"] == pytest.approx(
            [float(x.std(-1, correction=0).mean()) for x in logits], rel=1e-4
        )
    else:
        gate = [model["r"]._log_gate(*[b] * 2).exp() for b in where.split(where.boxes)]
        assert numbers["r:gate mean"] == pytest.approx([float(g.mean()) for g in gate])
        closed = [float((g <= 1.0001e-6).float().mean()) for g in gate]
        assert numbers["r:gate share at floor"] == pytest.approx(closed)


def test_probes_of_sgrn():
    torch.manual_seed(0)
    graph = SGRN(16, 5, latent_dim=8, graph_dims=(8,), num_kernels=2, num_neighbors=3)
    model = nn.ModuleDict({"g": graph})
    growth = Growth(model)
    Probes(model, growth)
    f, nodes, where = torch.randn(7, 16), torch.randn(7, 5), regions()
    with growth.iteration(0):
        graph(f, nodes, where).square().sum().backward()
    sizes = {str(s): s.values[0] for s in growth.series()}
    scores = graph.graph(f, where).scores
    assert sizes["g:f"] == pytest.approx(float(f.square().mean().sqrt()))
    assert sizes["g:nodes"] == pytest.approx(float(nodes.square().mean().sqrt()))
    assert sizes["g:scores"] == pytest.approx(float(scores.square().mean().sqrt()))
    assert {"g", "g.learner", "g.convs.0", "the gradient of g.learner"} <= sizes.keys()


def recording(sizes, first=(), gradients=None):
    count = len(next(iter(sizes.values())))
    return {
        "iterations": list(range(count)), "losses": {"total_loss": [1.0] * count}, "sizes": sizes,
        "gradients": gradients or {}, "numbers": {}, "first_to_grow": list(first),
    }  # fmt: skip


def test_what_is_drawn_by_default():
    quiet, loud = (
        recording({"a": [1.0]}),
        recording(
            {"a": [1.0], "b": [1.0]},
            ["the gradient of b from 1 to 9 (from 5 on)", "a from 2 to inf (from 6 on)"],
            {"b": [1.0]},
        ),
    )
    assert chosen([quiet, loud], []) == ["total_loss", "gradient of b", "a"]
    assert chosen([quiet, loud], ["*b"]) == ["b", "gradient of b"]
    with pytest.raises(ValueError, match="Nothing in the recordings is named 'c'"):
        chosen([quiet, loud], ["a", "c"])


def points(svg):
    """Corners of every curve of every panel."""
    lines = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}polyline")
    return [[tuple(map(float, p.split(","))) for p in e.get("points").split()] for e in lines]


def test_curves_are_logarithmic_and_leave_out_what_has_no_logarithm():
    one = recording({"a": [1.0, 10.0, 100.0, None, "inf", 0.0, "nan", 1.0]})
    ((*three, last),) = points(draw({"x<y": one}, ["a"]))
    heights = [y for _, y in three]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.1)
    assert heights[0] > heights[2] and last[1] == heights[0]
    across = [x for x, _ in [*three, last]]
    assert (across[1] - across[0]) * 7 == pytest.approx(across[-1] - across[0], abs=1)


def test_panels_share_their_scales_and_colours():
    svg = draw({"one": recording({"a": [1.0, 1.0, 1.0]}), "two": recording({"a": [1.0, 100.0]})})
    assert len(points(svg)) == 2  # total_loss of both
    svg = draw({"one": recording({"a": [1.0, 1.0, 1.0]}), "two": recording({"a": [1.0, 100.0]})},
               ["a"])  # fmt: skip
    one, two = points(svg)
    assert one[:1] == two[:1] and one[1][0] == two[1][0]
    assert "prefers-color-scheme: dark" in svg and ">one</text>" in svg and ">a</text>" in svg
    assert (
        len({e.get("stroke") for e in ElementTree.fromstring(svg).iter() if e.get("points")}) == 1
    )


def test_what_diverges_leaves_the_scale_to_the_others():
    one = recording({"a": [1.0] * 50 + [1e30]})
    (line,) = points(draw({"one": one}, ["a"]))
    assert line[-1][1] < 0 < line[0][1]  # above the panel, which cuts it off
    assert math.isfinite(line[-1][1])


def test_more_lines_than_colours_are_told_apart():
    svg = draw({"one": recording({f"a{k}": [1.0, 2.0] for k in range(12)})}, ["a*"])
    curves = [e for e in ElementTree.fromstring(svg).iter() if e.get("points")]
    assert len({(e.get("stroke"), e.get("stroke-dasharray")) for e in curves}) == 12


def test_the_tool_draws_files_of_one_name(tmp_path):
    paths = [tmp_path / folder / "a.json" for folder in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(json.dumps(recording({"a": [1.0]})))
    output = tmp_path / "drawn" / "a.svg"
    load_tool("record_growth").main(
        ["--draw", *map(str, paths), "--output", str(output), "--lines", "a"]
    )
    assert len(points(output.read_text())) == 2


def test_either_training_or_drawing(capsys):
    with pytest.raises(SystemExit):
        load_tool("record_growth").parse_args(["--output", "a.json"])
    assert "give either --config-file, to train, or --draw" in capsys.readouterr().err


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="no numbers above 0"):
        draw({"one": recording({"a": [0.0, None]})}, ["a"])


def test_a_row_of_the_table_says_where_it_ended_and_what_grew_first():
    ended = {"diverged": None, "iterations": list(range(60)), "first_to_grow": ["x"],
             "losses": {"total_loss": [100.0] * 10 + [2.0] * 25 + [3.0] * 25}}  # fmt: skip
    assert growth_table.row(ended) == "none in 60 |  | 2.50"
    left = {**ended, "diverged": "It did.", "first_to_grow": ["a from 1 to 2", "b", "c"]}
    assert growth_table.row(left) == "59 | a from 1 to 2; b |"
