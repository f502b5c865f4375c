"""The verbs of `relation-heads` with a trained detector of a few channels."""

import pytest

pytest.importorskip("detectron2")

import json
import shutil

import cv2
import torch

from relation_heads import commands, load
from tests.helpers import tiny_cfg, tiny_coco, unregister
from tests.modeling.common import RELATION, SGRN, SMALL_RELATION


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with `stock`, `relation`, `sgrn`: trainings of one iteration by the command."""
    folder = tmp_path_factory.mktemp("verbs")
    coco = tiny_coco(folder / "data")
    try:
        for name, opts in {
            "stock": (),
            "relation": (*RELATION, *SMALL_RELATION),
            "sgrn": SGRN,
        }.items():
            cfg = tiny_cfg(["mine"], ["mine"], 3, folder / name)
            (folder / f"{name}.yaml").write_text(cfg.dump())
            words = ["train", "--config-file", str(folder / f"{name}.yaml")]
            words += ["--dataset", "mine", str(coco.json_file), str(coco.image_root)]
            words += ["SOLVER.MAX_ITER", "1", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
            assert end(words + list(map(str, opts))) == 0
    finally:
        unregister("mine")
    return folder


def end(words):
    """The exit code of the command."""
    with pytest.raises(SystemExit) as stop:
        commands.main([str(word) for word in words])
    return stop.value.code


@pytest.fixture
def photos(trained, tmp_path):
    """A folder with two photographs of one name, a text, and a video of three frames."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    images = sorted((trained / "data" / "images").iterdir())
    shutil.copy(images[0], folder / "one.png")
    shutil.copy(images[1], folder / "more" / "one.png")
    (folder / "notes.txt").write_text("no image")
    writer = cv2.VideoWriter(
        str(folder / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64)
    )
    for image in images[:3]:
        writer.write(cv2.imread(str(image)))
    writer.release()
    return folder


def test_predict_files_patterns_and_a_video(trained, photos, tmp_path, capsys):
    model, out = trained / "relation" / "model_final.pth", tmp_path / "out"
    words = ["predict", model, photos, photos / "more" / "*.png", "--output", out, "--min-score", 0]
    assert end([*words, "--json", out / "found.json", "--batch-size", 2]) == 0
    assert {p.name for p in out.iterdir()} == {"one.jpg", "one_2.jpg", "clip.mp4", "found.json"}
    rows = json.loads((out / "found.json").read_text())
    assert capsys.readouterr().out.splitlines() == [
        f"{len(rows)} detections in {out / 'found.json'}", f"Pictures in {out}",
    ]  # fmt: skip
    found = load(model)(photos / "one.png")
    mine = [row for row in rows if row["image_id"] == str(photos / "one.png")]
    assert [row["score"] for row in mine] == pytest.approx(found.scores.tolist(), rel=1e-4)
    assert [row["class_name"] for row in mine] == found.names
    ids = {row["image_id"] for row in rows}
    assert {f"{photos / 'clip.avi'}#{i}" for i in range(3)} < ids and len(ids) == 5
    video = cv2.VideoCapture(str(out / "clip.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and video.get(cv2.CAP_PROP_FPS) == 10


def test_predict_says_what_it_found_in_one_image(trained, photos, tmp_path, capsys):
    model = trained / "stock" / "model_final.pth"
    words = ["predict", model, photos / "one.png", "--output", tmp_path, "--min-score", 0]
    assert end(words) == 0
    assert str(load(model)(photos / "one.png")) in capsys.readouterr().out
    assert end([*words, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0]) == 0
    assert "nothing" in capsys.readouterr().out


def test_a_broken_image_among_others_is_left_out_aloud(trained, photos, tmp_path, capsys):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    model, out = trained / "stock" / "model_final.pth", tmp_path / "out"
    assert end(["predict", model, photos / "broken.jpg", photos / "one.png", "--output", out]) == 0
    assert "broken.jpg is not an image" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["one.jpg"]
    assert end(["predict", model, photos / "broken.jpg", "--output", out]) == 2
    assert "None of the files is an image" in capsys.readouterr().err


def test_evaluate_a_checkpoint_alone(trained, tmp_path, capsys):
    coco, out = trained / "data", tmp_path / "out"
    words = ["evaluate", trained / "sgrn" / "model_final.pth", "OUTPUT_DIR", out]
    words += ["--dataset", "mine", coco / "annotations.json", coco / "images"]
    try:
        assert end(words) == 0
    finally:
        unregister("mine")
    assert (out / "inference" / "coco_instances_results.json").exists()
    assert "SGRNROIHeads" in (out / "config.yaml").read_text()


def test_explain(trained, photos, tmp_path, capsys):
    out = tmp_path / "out"
    model = trained / "sgrn" / "model_final.pth"
    words = ["explain", model, photos / "one.png", photos / "more", "--min-score", 0]
    assert end([*words, "--output", out]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names[:2] == ["kernels_layer1.png", "kernels_layer2.png"]
    assert [name[:7] for name in names[2:]] == ["one_2_c", "one_cla"]


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("head", ["stock", "sgrn"])
def test_export_a_trace_that_finds_the_same_at_another_size(trained, tmp_path, capsys, head):
    model, out = trained / head / "model_final.pth", tmp_path / "made" / "detector.ts"
    assert end(["export", model, "--output", out, "--height", 64, "--width", 96]) == 0
    assert "gives pred_boxes, " in capsys.readouterr().out
    image = 255 * torch.rand(3, 80, 72)
    names = list(
        load(model).model.inference([{"image": image}], do_postprocess=False)[0].get_fields()
    )
    outputs = dict(zip(names, torch.jit.load(str(out))(image), strict=False))
    (expected,) = load(model).model.inference([{"image": image}], do_postprocess=False)
    torch.testing.assert_close(
        outputs["pred_boxes"], expected.pred_boxes.tensor, rtol=1e-3, atol=1e-2
    )


def test_view_writes_one_page_of_several_detectors(trained, photos, tmp_path, capsys):
    model, stock = trained / "sgrn" / "model_final.pth", trained / "stock" / "model_final.pth"
    out = tmp_path / "made" / "why.html"
    words = ["view", model, photos / "one.png", photos / "more", "--min-score", 0, "--output", out]
    assert end([*words, "--beside", f"plain={stock}"]) == 0
    assert f"{out} written: 2 images" in capsys.readouterr().out
    page = out.read_text()
    assert "SGRNROIHeads" in page and "plain" in page and page.count("data:image/jpeg") == 2
    assert end([*words, "--beside", f"a={stock}", "--beside", f"a={stock}"]) == 2
    assert "same name" in capsys.readouterr().err
    assert end([*words, "--beside", f"SGRNROIHeads={stock}"]) == 2
    assert "Two detectors have the name SGRNROIHeads" in capsys.readouterr().err


def test_configs(capsys):
    assert end(["configs", "cascade", "SGRN"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert "COCO-Detection/cascade_rcnn_R_50_FPN_sgrn_1x.yaml" in listed
    assert all("cascade" in line and "sgrn" in line for line in listed)
    assert end(["configs"]) == 0
    ours = capsys.readouterr().out
    assert not any(line.startswith(("heads/", "data/", "Base")) for line in ours.splitlines())
    assert end(["configs", "--detectron2"]) == 0
    assert len(capsys.readouterr().out) > len(ours)
    assert end(["configs", "no-such-word"]) == 1
    assert "No config has no-such-word" in capsys.readouterr().out


WRONG = {  # name -> words, and what is said; {m} relation model, {s} stock model, {p} photographs
    "no image": ("predict {m} {p}/none.jpg", "There is no image {p}/none.jpg"),
    "no match": ("predict {m} {p}/*.gif", "There is no image {p}/*.gif"),
    "empty folder": ("predict {m} {p}/empty", "{p}/empty has no images or videos"),
    "no webcam": ("predict {m} 99", "webcam 99 cannot be opened"),
    "broken video": ("predict {m} {p}/broken.mp4", "video {p}/broken.mp4 cannot be opened"),
    "text": ("predict {m} {p}/notes.txt", "None of the files is an image"),
    "no model": ("predict {p}/none.pth {p}/one.png", "There is no checkpoint {p}/none.pth"),
    "no config": ("predict none.yaml {p}/one.png", "Config file 'none.yaml' was not found"),
    "no name": ("predict scenes {p}/one.png", "has scenes-relation-signed"),
    "image as model": ("predict {p}/one.png {p}/one.png", "{p}/one.png"),
    "text as model": ("predict {p}/text.pth {p}/one.png", "text.pth is not a checkpoint"),
    "key": ("predict {m} {p}/one.png MODEL.NONE 1", "Non-existent key: MODEL.NONE"),
    "device": ("predict {m} {p}/one.png --device tpu9", "tpu9"),
    "output": ("predict {m} {p}/one.png --output {p}/notes.txt", "{p}/notes.txt"),
    "json": ("predict {m} {p}/one.png --no-pictures --json {p}/more", "{p}/more"),
    "nothing to write": ("predict {m} {p}/one.png --no-pictures", "give --json"),
    "stock explained": ("explain {s} {p}/one.png", "NAME is StandardROIHeads"),
    "class": ("explain {m} {p}/one.png --class cat", "--class cat is none of: class0"),
    "module": ("explain {m} {p}/one.png --module none --min-score 0", "--module none is none of: "),
    "head": ("explain {m} {p}/one.png --head 9 --min-score 0", "head must be in 0 to 3, got 9"),
    "size": ("export {m} --height 0", "must be at least 1"),
    "exported": ("export {p}/none.pth", "There is no checkpoint {p}/none.pth"),
    "video explained": ("explain {m} {p}/clip.avi", "{p}/clip.avi is a video"),
    "viewed": ("view {m} {p}/clip.avi", "{p}/clip.avi is a video"),
    "beside": ("view {m} {p}/one.png --beside {s}", "must be NAME=MODEL"),
    "evaluated": ("evaluate {p}/none.pth", "There is no checkpoint {p}/none.pth"),
    "data set": ("evaluate {m} DATASETS.TEST ('none',)", "none"),
    "trained": ("train --config-file {p}/none.yaml", "{p}/none.yaml' was not found"),
}


@pytest.mark.parametrize("case", WRONG)
def test_misuse_is_a_sentence(trained, photos, tmp_path, capsys, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (photos / "empty").mkdir()
    (photos / "broken.mp4").write_bytes(b"no video")
    (photos / "text.pth").write_text("no weights")
    words, says = WRONG[case]
    names = {"m": trained / "relation" / "model_final.pth", "p": photos,
             "s": trained / "stock" / "model_final.pth"}  # fmt: skip
    assert end([word.format(**names) for word in words.split(" ")]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    _, program, said = said.partition(f"relation-heads {words.split()[0]}: ")
    assert program and says.format(**names) in said
