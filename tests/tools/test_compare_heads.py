import pytest

pytest.importorskip("detectron2")

from tests.tools.test_train_net import load_tool

SMALL = (
    "MODEL.FPN.OUT_CHANNELS 8 MODEL.ROI_BOX_HEAD.FC_DIM 32 MODEL.SGRN.GRAPH_DIMS [16,8] "
    "MODEL.SGRN.LATENT_DIM 8"
)


def test_ratios_are_to_the_first_config(capsys):
    tool = load_tool("compare_heads")
    stock = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
    ours = "COCO-Detection/faster_rcnn_R_50_FPN_sgrn_1x.yaml"
    command = f"{stock} {ours} --train-regions 16 --test-regions 8 --rounds 1 --opts {SMALL}"
    tool.main(command.split())
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4 and rows[2].count("(1.00x)") == 4
    assert stock in rows[2] and ours in rows[3]
    parameters = [int(row.split("|")[2].replace(",", "")) for row in rows[2:]]
    assert parameters[1] > parameters[0]
    assert float(rows[3].split("|")[4].split("(")[1].split("x")[0]) > 1  # memory of a step
