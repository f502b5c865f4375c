"""Maps of a frozen backbone: those of the backbone, made once."""

import pytest

pytest.importorskip("detectron2")

import torch
from torch import nn

from relation_heads.engine import RelationTrainer
from relation_heads.engine.map_cache import GIB, MapCache, cache_maps
from tests.helpers import registered, tiny_cfg, tiny_coco

# Two epochs and more, of images that come again as they were.
OPTS = ["SOLVER.MAX_ITER", 8, "SOLVER.BASE_LR", 1e-4, "INPUT.RANDOM_FLIP", "none"]


class Made:
    """Two maps of an image, and how many images were asked for."""

    def __init__(self):
        self.images = 0

    def __call__(self, images):
        self.images += len(images)
        return {"p2": images * 2, "p3": images[:, :1, ::2, ::2]}


def test_each_image_is_made_once_and_in_its_place():
    made = Made()
    cache = MapCache(made, gib=1.0)
    a, b, c = torch.rand(3, 3, 8, 6)
    cache(torch.stack([a, b]))
    maps = cache(torch.stack([c, b, a]))
    assert made.images == 3
    expected = Made()(torch.stack([c, b, a]))
    assert maps.keys() == expected.keys()
    assert all(torch.equal(maps[name], expected[name]) for name in maps)
    maps["p2"].zero_()  # what a head does to its input
    assert torch.equal(cache(a[None])["p2"][0], a * 2)


def test_an_image_twice_in_a_batch_is_kept_once():
    made, image = Made(), torch.rand(3, 8, 8)
    cache = MapCache(made, gib=1.0)
    maps = cache(torch.stack([image, image]))
    assert made.images == 1 and torch.equal(maps["p2"][0], maps["p2"][1])
    kept = sum(x.nbytes for maps in cache.kept.values() for x in maps.values())
    assert len(cache.kept) == 1 and cache.room == GIB - kept


def test_pixels_in_another_shape_are_another_image():
    made = Made()
    cache = MapCache(made, gib=1.0)
    pixels = torch.rand(1, 3, 8, 6)
    cache(pixels)
    assert cache(pixels.reshape(1, 3, 6, 8))["p2"].shape == (1, 3, 6, 8) and made.images == 2


def test_what_does_not_fit_is_made_again(caplog):
    made = Made()
    images = torch.rand(3, 1, 3, 8, 8)
    bytes_of_one = sum(x.nbytes for x in made(images[0]).values())
    cache = MapCache(made, gib=2.5 * bytes_of_one / GIB)
    made.images = 0
    for image in [*images, *images]:
        cache(image)
    assert made.images == 4 and len(cache.kept) == 2
    assert [r.getMessage() for r in caplog.records if "CACHE_MAPS" in r.getMessage()] == [
        "The maps of 2 images fill DATALOADER.CACHE_MAPS."
    ]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 2, 1)


def test_a_backbone_that_is_trained_is_refused():
    model = Model()
    model.backbone.weight.requires_grad_(False)
    cache_maps(model, 0.0)
    with pytest.raises(ValueError) as error:
        cache_maps(model, 8.0)
    assert all(word in str(error.value) for word in ("CACHE_MAPS 8", "backbone.bias", "TRAIN_ONLY"))


def test_a_training_with_it_is_the_training_without(tmp_path):
    with registered(tiny_coco(tmp_path / "data")) as name:
        losses, asked = [], []
        for gib in (0.0, 1.0):
            cfg = tiny_cfg(
                [name],
                [],
                4,
                tmp_path / str(gib),
                OPTS,
            )
            cfg.MODEL.TRAIN_ONLY = ["roi_heads.*"]
            cfg.DATALOADER.CACHE_MAPS = gib
            cfg.SEED = 3
            torch.manual_seed(0)  # of the weights
            trainer = RelationTrainer(cfg)
            calls = []
            bottom_up = getattr(trainer.model.backbone, "bottom_up", trainer.model.backbone)
            first = next(m for m in bottom_up.modules() if isinstance(m, nn.Conv2d))
            first.register_forward_hook(lambda *_, calls=calls: calls.append(1))
            trainer.train()
            asked.append(len(calls))
            losses.append(trainer.storage.latest()["total_loss"][0])
    assert asked[1] < asked[0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
