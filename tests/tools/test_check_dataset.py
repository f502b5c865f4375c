"""The command line of tools/check_dataset.py: which data sets, what is printed, the exit code."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("detectron2")

from relation_heads.data.checks import images
from tests.helpers import registered, tiny_coco, write_json
from tests.tools.test_train_net import load_tool


@pytest.fixture
def coco(tmp_path):
    return tiny_coco(tmp_path / "set")


@pytest.fixture
def check(capsys):
    """Runs the tool; returns exit code, output and errors."""

    def check(*arguments):
        code = 0
        try:
            load_tool("check_dataset").main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return check


def paths(coco):
    return coco.json_file, coco.image_root


def damage(coco):
    coco.dataset["annotations"][0]["id"] = 0
    write_json(coco.json_file, coco.dataset)


def test_a_good_data_set_by_flag_and_by_name(check, coco):
    code, out, err = check("--dataset", "mine", *paths(coco))
    assert (code, err) == (0, "")
    assert out.startswith(f"mine: {coco.json_file}, images in {coco.image_root}\n")
    assert out.endswith("0 problems, 0 warnings, 1 fact.\n")
    with registered(coco) as name:
        code, other, _ = check(name)
        assert (code, other.split()) == (0, out.replace("mine", name).split())


def test_a_problem_is_exit_code_1_and_in_the_json_file(check, coco, tmp_path):
    damage(coco)
    report = tmp_path / "report.json"
    code, out, _ = check("--dataset", "mine", *paths(coco), "--json", report)
    assert code == 1
    assert "PROBLEMS" in out and "1 annotation with id 0" in out
    findings = json.loads(report.read_text())["findings"]
    assert [finding["level"] for finding in findings] == ["problem", "fact"]


def test_a_json_file_that_is_cut_off_is_a_problem(check, coco):
    coco.json_file.write_text(coco.json_file.read_text()[:100])
    code, out, _ = check("--dataset", "mine", *paths(coco))
    assert code == 1
    assert "is not a JSON file" in " ".join(out.split())


def test_images_are_read_unless_told_not_to(check, coco):
    (coco.image_root / "000001.png").write_text("no image")
    assert check("--dataset", "mine", *paths(coco))[0] == 1
    assert check("--dataset", "mine", *paths(coco), "--no-images")[0] == 0
    (coco.image_root / "000001.png").unlink()
    assert check("--dataset", "mine", *paths(coco), "--no-images")[0] == 1


def test_names_give_the_order(check, coco, tmp_path):
    other = tiny_coco(tmp_path / "other", num_images=2)
    given = "--dataset", "a", *paths(coco), "--dataset", "b", *paths(other), "--no-images"
    assert check(*given)[1].startswith("a: ")
    assert check("b", "a", *given)[1].startswith("b: ")
    with registered(coco) as name:
        out = check(name, "b", "--dataset", "b", *paths(other))[1]
        assert out.startswith(f"{name}: ")
        assert "equal byte for byte" in out  # both draw the same pictures


def test_bad_arguments_are_one_sentence(check, coco, tmp_path):
    given = "--dataset", "mine", *paths(coco)
    for arguments, sentence in [
        ([], "give the name of a data set"),
        (["nowhere"], "The data set 'nowhere' is not registered"),
        (["voc_2007_train"], "not as one in COCO format"),
        (["relational_scenes_train"], "relational_scenes/annotations/train.json"),
        (["--dataset", "mine", tmp_path / "no.json", coco.image_root], "There is no file"),
        (["--dataset", "mine", coco.json_file, tmp_path / "no"], "There is no folder"),
        (["relational_scenes_train", *given], "must be among them"),
        ([*given, *given], "a name of its own"),
        (["mine", "mine", *given], "a name of its own"),
        ([*given, "--workers", 0], "--workers: must be at least 1"),
        ([*given, "--json", tmp_path / "no" / "report.json"], "there is no folder"),
    ]:
        code, out, err = check(*arguments)
        assert (code, out) == (2, ""), arguments
        assert sentence in err.splitlines()[-1]


@pytest.mark.parametrize("workers", [1, 3])
def test_workers(check, coco, monkeypatch, workers):
    asked = []

    class Noted(ThreadPoolExecutor):
        def __init__(self, number):
            asked.append(number)
            super().__init__(number)

    monkeypatch.setattr(images, "ThreadPoolExecutor", Noted)
    given = "--dataset", "mine", *paths(coco), "--workers", workers
    assert check(*given) == check("--dataset", "mine", *paths(coco))
    assert asked == [workers, 8]


def test_relative_paths(check, coco, tmp_path, monkeypatch):
    """They are looked up where the program runs, then under the root of all data sets."""
    given = "--dataset", "mine", "set/annotations.json", "set/images"
    monkeypatch.chdir("/")
    assert check(*given)[0] == 2
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert check(*given)[0] == 0
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(tmp_path)
    assert check(*given)[0] == 0
