import pytest

pytest.importorskip("detectron2")

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import detectron2
from detectron2.engine import default_argument_parser

from relation_heads.engine.train import train_or_evaluate
from tests.helpers import tiny_cfg, tiny_coco, unregister

ROOT = Path(__file__).resolve().parents[2]


def load_tool(name):
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(tmp_path):
    """Arguments of a tiny training on a COCO-format folder that is registered by flags, and where
    it writes."""
    coco = tiny_coco(tmp_path)
    base = tmp_path / "tiny.yaml"
    base.write_text(tiny_cfg(["flagged"], ["flagged"], 3, tmp_path / "out").dump())
    yield [
        "--config-file", str(base),
        "--dataset", "flagged", str(coco.json_file), str(coco.image_root),
    ], tmp_path / "out"  # fmt: skip
    unregister("flagged")


RELATION = ["MODEL.ROI_HEADS.NAME", "RelationROIHeads", "MODEL.RELATION.NUM_HEADS", "4"]


def test_trains_resumes_and_evaluates(tiny):
    arguments, output = tiny
    main, parse = train_or_evaluate, load_tool("train_net").parse_args
    main(parse([*arguments, *RELATION]))
    log = (output / "log.txt").read_text()
    assert "RelationBoxHead" in log
    *_, where, how_good, what_next = log.splitlines()
    model = output / "model_final.pth"
    assert f"The model is {model}" in where and f"relation-heads predict {model}" in what_next
    assert re.search(r"bbox AP \d+\.\d on flagged, bbox AP50 \d+\.\d on flagged", how_good)
    results = main(
        parse(
            [*arguments, "--eval-only", *RELATION, "MODEL.WEIGHTS", str(output / "model_final.pth")]
        )
    )
    assert {"AP", "AP50"} <= results["bbox"].keys()
    main(parse([*arguments, "--resume", *RELATION, "SOLVER.MAX_ITER", "3"]))
    assert "Starting training from iteration 2" in (output / "log.txt").read_text()
    iterations = [json.loads(line)["iteration"] for line in (output / "metrics.json").open()]
    assert max(iterations) == 3  # the evaluation that ends it


def test_an_untrained_head_is_not_evaluated(tiny):
    arguments, output = tiny
    main, parse = train_or_evaluate, load_tool("train_net").parse_args
    main(parse(arguments))  # the stock twin
    with pytest.raises(ValueError, match=r"lacks 16 tensors of this model.*roi_heads.box_head"):
        main(
            parse(
                [
                    *arguments,
                    "--eval-only",
                    *RELATION,
                    "MODEL.WEIGHTS",
                    str(output / "model_final.pth"),
                ]
            )
        )


def run_tool(path, arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(path), *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["MODEL.ROI_HEADS.NUM_CLASSES", "7"], "7"),
        (["MODEL.ROI_HEADS.NAM", "x"], "MODEL.ROI_HEADS.NAM"),
    ],
)
def test_a_wrong_config_ends_in_one_sentence(tiny, capsys, change, message):
    arguments, _ = tiny
    with pytest.raises(SystemExit) as stop:
        load_tool("train_net").main([*arguments, *change])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("train_net.py: ") and message in said
    assert len(said.splitlines()) <= 2


def actions(parser):
    """What can be given, and what it becomes."""
    return {
        (*a.option_strings, a.dest): (type(a), a.nargs, a.const, a.default, a.type, a.choices)
        for a in parser._actions
    }


def test_the_arguments_are_those_of_detectron2(monkeypatch):
    parsers = []
    monkeypatch.setattr(
        argparse.ArgumentParser, "parse_args", lambda self, argv=None: parsers.append(self)
    )
    load_tool("train_net").parse_args([])
    (ours,) = map(actions, parsers)
    ours.pop(("--dataset", "dataset"))
    ours.pop(("--image-folder", "image_folder"))
    for name in ("debug", "overwrite", "schedule"):
        ours.pop((f"--{name}", name))
    stock = actions(default_argument_parser())
    assert ours == stock


def test_detectron2s_own_tool_trains_our_head(tiny, tmp_path):
    """Unmodified `tools/train_net.py` of Detectron2, through DETECTRON2_ENV_MODULE and
    RELATION_HEADS_DATASETS."""
    stock_tool = Path(detectron2.__file__).parents[1] / "tools" / "train_net.py"
    if not stock_tool.is_file():
        pytest.skip("this installation has no tools/train_net.py beside the package")
    arguments, output = tiny
    config, (name, json_file, images) = arguments[1], arguments[3:]
    done = run_tool(
        stock_tool,
        ["--config-file", config, *RELATION],
        DETECTRON2_ENV_MODULE="relation_heads.d2_env",
        RELATION_HEADS_DATASETS=f"{name}={json_file},{images}",
        PYTHONPATH=str(ROOT),
    )
    assert done.returncode == 0, done.stderr
    assert "RelationBoxHead" in (output / "log.txt").read_text()
    assert (output / "model_final.pth").is_file()
