"""The command: features, trainings, one JSON each, tables; resumed without work."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.modeling import build_backbone

from relation_heads.analysis.given_boxes import feature_files, results
from relation_heads.analysis.given_boxes.feature_files import feature_cfg
from relation_heads.analysis.given_boxes.results import choose_tasks
from tests.helpers import registered, tiny_coco
from tests.tools.test_train_net import load_tool

CONFIG = "RelationalScenes/faster_rcnn_shallow.yaml"


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Runs the command on pictures of three boxes, with a random shallow backbone."""
    torch.manual_seed(0)
    weights = {
        f"backbone.{k}": v for k, v in build_backbone(feature_cfg(CONFIG)).state_dict().items()
    }
    torch.save({"model": weights}, tmp_path / "weights.pth")
    monkeypatch.setattr(
        results, "provenance", lambda seed, tool: {"commit": "abc", "machine": "m", "seed": seed}
    )
    main = load_tool("compare_given_boxes").main
    with registered(tiny_coco(tmp_path, num_images=6)) as name:

        def call(*more, datasets=(name,), keys=("INPUT.MIN_SIZE_TEST", "64")):
            main([
                "--datasets", *datasets, "--epochs", "2", "--batch-size", "2", *more,
                "--output", str(tmp_path / "out"), "--features", str(tmp_path / "features"),
                "--config-file", CONFIG, "MODEL.WEIGHTS", str(tmp_path / "weights.pth"), *keys,
            ])  # fmt: skip

        call.output, call.main, call.name = tmp_path / "out", main, name
        yield call


def refused(capsys, function, *args, **kwargs):
    """The sentence with which a command ends."""
    with pytest.raises(SystemExit) as error:
        function(*args, **kwargs)
    assert error.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    return message.removeprefix("compare_given_boxes.py: ")


def test_from_pictures_to_tables_and_again_without_work(tool, capsys, monkeypatch):
    asked = ["--methods", "mlp", "relation", "--seeds", "0", "1", "--train-images", "2"]
    tool(*asked)
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if ", seed " in line]
    starts = [line.split(":")[0] for line in lines]
    assert starts == [
        f"{method}, seed {seed}, {size} images"
        for size in (4, 2) for seed in (0, 1) for method in ("mlp", "relation")
    ]  # fmt: skip
    assert "| method | 2 images | all images |" in printed
    files = {str(p.relative_to(tool.output)) for p in tool.output.rglob("*") if p.is_file()}
    assert files == {
        f"{method}/images_{size}_seed_{seed}.json"
        for size in ("all", 2) for seed in (0, 1) for method in ("mlp", "relation")
    }  # fmt: skip
    found = json.loads((tool.output / "relation" / "images_2_seed_1.json").read_text())
    assert (found["method"], found["seed"], found["train_images"]) == ("relation", 1, 2)
    assert found["measured"]["all"][1] == 6 and found["measured"]["train_boxes"] == 6
    assert found["setting"]["train"] == tool.name and found["setting"]["epochs"] == "2"
    assert found["made_by"] == {"commit": "abc", "machine": "m"}

    monkeypatch.setattr(results, "run", None)  # calling it would fail
    monkeypatch.setattr(feature_files, "extract", None)
    tool(*asked)
    assert printed.endswith(capsys.readouterr().out)
    tool.main(["--table", "--output", str(tool.output)])
    assert printed.endswith(capsys.readouterr().out)


def test_only_what_is_missing_is_trained(tool, monkeypatch):
    tool("--methods", "mlp", "--seeds", "0")
    trained = []

    def run(task, *_):
        trained.append(task)
        return {"all": [1, 2], "several_classes": [1, 2], "by_class": {}, "by_boxes": {"2": [1, 2]}}

    monkeypatch.setattr(results, "run", run)
    tool("--methods", "sgrn", "mlp", "--seeds", "0", "1")
    assert [(t.method, t.seed) for t in trained] == [("sgrn", 0), ("sgrn", 1), ("mlp", 1)]


def test_results_of_another_setting_are_refused(tool, capsys):
    tool("--methods", "mlp", "--seeds", "0")
    message = refused(capsys, tool, "--epochs", "3", "--methods", "mlp", "--seeds", "0")
    assert message.endswith(
        "mlp/images_all_seed_0.json was made with epochs '2', not '3': give another --output, or "
        "remove it."
    )
    message = refused(capsys, tool, keys=("INPUT.MIN_SIZE_TEST", "48"))
    assert "was made from another INPUT.MIN_SIZE_TEST: 64, not 48." in message


def test_bad_input_gets_one_sentence(tool, capsys):
    message = refused(capsys, tool, "--methods", "mlp", "relations")
    assert message.startswith("There is no method 'relations'; there are mlp, control_self, ")
    assert (
        refused(capsys, tool, "--train-images", "0") == "--train-images must be at least 1, got 0."
    )
    message = refused(capsys, tool, "--train-images", "5")
    assert message == "There are 4 training images, not 5: ask for fewer."
    message = refused(capsys, tool, datasets=["nowhere"])
    assert message.startswith("The data set 'nowhere' is not registered")
    message = refused(capsys, tool.main, ["--table", "--output", "/no/folder"])
    assert message == "/no/folder has no results."
    message = refused(capsys, tool.main, ["--output", "out"])
    assert message.endswith("error: --datasets is needed, or --table")
    message = refused(capsys, tool.main, ["--output", "o", "--datasets", "a", "--epochs", "0"])
    assert message.endswith("argument --epochs: must be at least 1, got 0")
    assert not tool.output.exists()
    (tool.output / "mlp").mkdir(parents=True)
    (tool.output / "mlp" / "images_all_seed_0.json").write_text("{}")
    message = refused(capsys, tool.main, ["--table", "--output", str(tool.output)])
    assert "images_all_seed_0.json is not a result of tools/compare_given_boxes.py" in message


def test_order_of_trainings():
    tasks = choose_tasks(["mlp", "sgrn"], [3, 1, 3], [2, 8])
    found = [(t.train_images, t.seed, t.method) for t in tasks]
    pairs = [(3, "mlp"), (3, "sgrn"), (1, "mlp"), (1, "sgrn")]
    assert found == [(size, *pair) for size in (0, 8, 2) for pair in pairs]
