"""Masks that stay polygons: the same masks, targets and losses as MMDetection's bitmaps."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.roi_heads.mask_heads import MaskIoUHead, MaskPointHead
from mmdet.registry import DATASETS, MODELS, TRANSFORMS
from mmdet.structures.mask import BitmapMasks, mask_target
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from pycocotools import mask as coco_mask

from mmdet_eql.datasets import LazyBitmapMasks
from mmdet_eql.utils.errors import UserError
from tests.conftest import build_dataset

HEIGHT, WIDTH = 120, 160
STOCK = dict(type="LoadAnnotations", with_bbox=True, with_mask=True)
OURS = dict(STOCK, type="LoadPolygonAnnotations")


@pytest.fixture(autouse=True)
def mmdet_scope():
    init_default_scope("mmdet")


def blob(rng, radius: float, x: float, y: float) -> list[float]:
    """A smooth outline of 40 points."""
    angle = np.arange(40) / 40 * 2 * np.pi
    length = radius * (0.8 + 0.2 * np.cos(3 * angle + rng.uniform(0, 6)))
    points = np.stack([x + length * np.cos(angle), y + 0.7 * length * np.sin(angle)], axis=1)
    return points.ravel().tolist()


def instances(seed: int = 0, number: int = 6) -> list[dict]:
    """Instances of one or two polygons; some leave the image."""
    rng, made = np.random.default_rng(seed), []
    for label in range(number):
        x, y = label * WIDTH / (number - 1), rng.uniform(15, HEIGHT - 15)
        radius = rng.uniform(10, 40)
        polygons = [blob(rng, radius, x, y), blob(rng, radius / 2, x + radius, y)][: 1 + label % 2]
        points = np.concatenate(polygons).reshape(-1, 2)
        box = np.clip(np.stack([points.min(axis=0), points.max(axis=0)]), 0, [WIDTH, HEIGHT])
        made.append(dict(ignore_flag=0, bbox=box.ravel().tolist(), bbox_label=label, mask=polygons))
    return made


def loaded(loader: dict, content: list[dict] | None = None, **results) -> dict:
    """What a loader makes of an image with these instances."""
    image = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    results = dict(results, instances=copy.deepcopy(content or instances()))
    results.update(img=image, img_shape=(HEIGHT, WIDTH), ori_shape=(HEIGHT, WIDTH))
    return TRANSFORMS.build(loader).transform(results)


def both(content: list[dict] | None = None) -> tuple[BitmapMasks, LazyBitmapMasks]:
    return loaded(STOCK, content)["gt_masks"], loaded(OURS, content)["gt_masks"]


def iou(a, b) -> float:
    """Mean IoU of masks, which are empty in both or in none."""
    a, b = (torch.as_tensor(masks).flatten(1) > 0 for masks in (a, b))
    either = (a | b).sum(1)
    return ((a & b).sum(1)[either > 0] / either[either > 0]).mean().item()


def targets(masks, boxes, indices, size=28):
    config = ConfigDict(mask_size=size)
    return mask_target([torch.as_tensor(boxes).float()], [indices], [masks], config)


def test_unmoved_bitmaps_are_mmdets():
    stock, ours = both()
    assert type(ours) is LazyBitmapMasks and len(ours) == len(stock) == 6
    np.testing.assert_array_equal(ours.areas, stock.areas)
    np.testing.assert_array_equal(ours.masks, stock.masks)
    assert ours.masks is ours.masks, "what changes the array changes the masks"


@pytest.mark.parametrize(
    "move",
    [
        lambda masks: masks.resize((200, 267)),
        lambda masks: masks.rescale((80, 60)),
        lambda masks: masks.resize((200, 267)).flip("horizontal"),
        lambda masks: masks.flip("vertical").resize((200, 200)),
        lambda masks: masks.flip("diagonal").crop(np.array([30, 20, 120, 100])).resize((160, 180)),
        lambda masks: masks.crop(np.array([30, 20, 500, 100])).pad((300, 300)).flip("diagonal"),
        lambda masks: masks.pad((300, 300), pad_val=1),
        lambda masks: masks.resize((200, 267))[np.array([4, 0])],
        lambda masks: masks[np.array([True, False] * 3)].flip(),
        lambda masks: masks[3],
        lambda masks: masks[[]].resize((20, 30)).flip(),
        lambda masks: masks.cat([masks[i : i + 1] for i in (2, 5)]),
        lambda masks: masks.cat([masks, masks.flip()]),
        lambda masks: pickle.loads(pickle.dumps(masks.flip())),
        lambda masks: type(masks)(masks.masks.copy(), masks.height, masks.width),
    ],
)
def test_moved_masks_are_mmdets(move):
    stock, ours = map(move, both())
    assert (len(ours), ours.height, ours.width) == (len(stock), stock.height, stock.width)
    boxes = [masks.get_bboxes("hbox").tensor for masks in (ours, stock)]
    if len(stock):
        assert (boxes[0] - boxes[1]).abs().max() <= 2
        assert iou(ours.masks, stock.masks) > 0.92  # objects of 20 pixels, enlarged
    assert ours.to_ndarray().shape == stock.to_ndarray().shape
    assert ours.to_tensor(torch.float32, "cpu").shape == stock.masks.shape


def test_targets_are_nearer_to_the_outline_than_those_of_bitmaps():
    stock, ours = (masks.resize((200, 267)).flip() for masks in both())
    rng, indices = np.random.default_rng(2), torch.arange(6).repeat(8)
    boxes = stock.get_bboxes("hbox").tensor[indices].numpy()
    boxes += rng.uniform(-0.1, 0.1, boxes.shape) * (boxes[:, 2:] - boxes[:, :2]).repeat(2, axis=1)
    fine = targets(ours, boxes, indices, size=28 * 16)
    exact = torch.nn.functional.avg_pool2d(fine[:, None], 16)[:, 0] >= 0.5
    from_bitmaps, from_polygons = (targets(masks, boxes, indices) for masks in (stock, ours))
    assert len(ours) == 6 and ours._polygons is not None
    assert iou(from_polygons, exact) > 0.99 > iou(from_bitmaps, exact)
    assert iou(from_polygons, from_bitmaps) > 0.95
    soft = dict(mask_size=28, soft_mask_target=True)
    some = mask_target([torch.tensor(boxes[:3])], [indices[:3]], [ours], ConfigDict(soft))
    assert ((some > 0) & (some < 1)).any()


def test_boxes_without_extent_have_a_target():
    _, ours = both()
    boxes = torch.tensor([[10.0, 10, 10, 10], [0, 0, 1e-4, 50], [159.99, 119.99, 160, 120]])
    assert targets(ours, boxes, torch.zeros(3, dtype=torch.int64)).shape == (3, 28, 28)
    assert targets(ours, boxes[:0], torch.zeros(0, dtype=torch.int64)).shape == (0, 28, 28)
    assert targets(ours[[]], boxes[:0], torch.zeros(0, dtype=torch.int64)).shape == (0, 28, 28)


def test_an_image_with_rle_gets_bitmaps():
    content = instances()
    rle = coco_mask.merge(coco_mask.frPyObjects(content[1]["mask"], HEIGHT, WIDTH))
    content[1]["mask"] = {"size": rle["size"], "counts": rle["counts"].decode()}
    content[2].update(ignore_flag=1)
    stock, ours = both(content)
    assert type(ours) is BitmapMasks
    np.testing.assert_array_equal(ours.masks, stock.masks)


def test_a_loader_that_ignores_rle_is_refused(minilvis, train_annotations, tmp_path):
    content = copy.deepcopy(train_annotations)
    path = tmp_path / "train.json"
    loader = dict(STOCK, poly2mask=False)

    def build(loader):
        path.write_text(json.dumps(content))
        return build_dataset(minilvis, ann_file=str(path), pipeline=[loader])

    assert len(build(loader)) == 60
    annotation, image = content["annotations"][3], content["images"][0]
    size = image["height"], image["width"]
    rle = coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], *size))
    annotation["segmentation"] = {"size": list(size), "counts": rle["counts"].decode()}
    assert len(build(OURS)) == 60
    with pytest.raises(UserError, match=r"train\.json: .* 1 annotation.* RLE.*poly2mask=False"):
        build(loader)
    annotation["iscrowd"] = 1  # ignored by any loader
    assert len(build(loader)) == 60


def test_degenerate_polygons_are_treated_as_mmdet_does():
    content = instances()
    content[0]["mask"].append([1.0, 2.0, 3.0, 4.0])  # left out
    content[1]["mask"] = [[1.0, 2.0, 3.0, 4.0]]  # nothing is left: ignored
    content[2]["mask"] = [[5.0, 5.0] * 3]  # a point
    content[3]["mask"] = [[5.0, 5.0, 50.0, 5.0, 20.0, 5.0]]  # a line
    content[4]["mask"] = [[10.0, 10.0, 60.0, 60.0, 60.0, 10.0, 10.0, 60.0]]  # crosses itself
    stock, ours = loaded(STOCK, content), loaded(OURS, content)
    np.testing.assert_array_equal(ours["gt_ignore_flags"], stock["gt_ignore_flags"])
    np.testing.assert_array_equal(ours["gt_masks"].masks, stock["gt_masks"].masks)


@pytest.mark.parametrize(
    "step",
    [
        dict(type="CopyPaste", selected=False),
        dict(type="CachedMosaic", img_scale=(160, 120), pad_val=0, random_pop=False),
        dict(type="CachedMixUp", img_scale=(160, 120), ratio_range=(0.8, 1.2), random_pop=False),
        dict(type="Expand", ratio_range=(1.5, 2), prob=1),
        dict(type="RandomErasing", n_patches=3, ratio=0.3),
        dict(type="RandomCrop", crop_size=(80, 90), recompute_bbox=True, allow_negative_crop=True),
        dict(type="MinIoURandomCrop"),
        dict(type="RandomShift", prob=1.0),
        dict(type="Rotate", prob=1.0, level=8),
        dict(type="ShearX", prob=1.0, level=8),
        dict(type="TranslateY", prob=1.0, level=8),
        dict(type="FilterAnnotations", min_gt_bbox_wh=(30, 30), by_mask=True),
    ],
    ids=lambda step: step["type"],
)
def test_any_augmentation_gets_what_it_takes(step):
    made = []
    for loader in (STOCK, OURS):
        np.random.seed(3)
        torch.manual_seed(3)
        results = loaded(loader, img_id=1, mix_results=[loaded(loader, instances(5))])
        transform = TRANSFORMS.build(step)
        resize = TRANSFORMS.build(dict(type="Resize", scale=(160, 120), keep_ratio=True))
        for image in (results, *results["mix_results"]):
            resize.transform(image)
        for _ in range(5 if step["type"].startswith("Cached") else 1):
            out = transform.transform(copy.deepcopy(results))
        made.append(out)
    stock, ours = made
    np.testing.assert_array_equal(ours["gt_bboxes_labels"], stock["gt_bboxes_labels"])
    assert (ours["gt_bboxes"].tensor - stock["gt_bboxes"].tensor).abs().max() <= 2
    assert ours["gt_masks"].masks.shape == stock["gt_masks"].masks.shape
    assert iou(ours["gt_masks"].masks, stock["gt_masks"].masks) > 0.94


def packed(loader: dict, seed: int = 0, scale=(267, 200)) -> dict:
    results = loaded(loader, instances(seed), img_id=seed)
    for step in (
        dict(type="Resize", scale=scale, keep_ratio=True),
        dict(type="RandomFlip", prob=1.0),
        dict(type="PackDetInputs"),
    ):
        results = TRANSFORMS.build(step).transform(results)
    return results


def test_padding_a_batch_keeps_polygons():
    data = pseudo_collate([packed(OURS), packed(OURS, 1, scale=(200, 150))])
    samples = DetDataPreprocessor(pad_mask=True, pad_size_divisor=32)(data, training=True)[
        "data_samples"
    ]
    masks = [sample.gt_instances.masks for sample in samples]
    assert {(each.height, each.width) for each in masks} == {(224, 288)}
    assert all(len(pickle.dumps(each)) < 20_000 for each in masks)
    assert not masks[1].masks[:, 150:].any() and not masks[1].masks[:, :, 200:].any()
    assert masks[1].masks[0, :, 199].any(), "this instance leaves the image there"


def test_other_heads_take_them():
    samples = [packed(loader)["data_samples"].gt_instances for loader in (STOCK, OURS)]
    boxes, indices = samples[0].bboxes.tensor, torch.arange(6)
    head = MaskIoUHead(num_classes=6)
    ratios = [head._get_area_ratio(boxes - 10, indices, each.masks) for each in samples]
    assert (ratios[0] - ratios[1]).abs().max() < 0.03
    head, config = MaskPointHead(num_classes=6), ConfigDict(num_points=196)
    rois, points = torch.cat([torch.zeros(6, 1), boxes], dim=1), torch.rand(6, 196, 2)
    values = [head._get_targets_single(rois, points, indices, each, config) for each in samples]
    assert ((values[0] > 0.5) == (values[1] > 0.5)).float().mean() > 0.97


def test_losses_of_20_steps_are_those_of_bitmaps(tiny_config):
    cfg = tiny_config("softmax")
    cfg.model.train_cfg.rcnn.sampler.num = 64
    cfg.model.train_cfg.rpn_proposal.update(nms_pre=200, max_per_img=100)
    dataset = cfg.train_dataloader.dataset
    dataset.pipeline[2].scale = (128, 128)
    loaders = ("LoadAnnotations", "LoadPolygonAnnotations")
    datasets = []
    for loader in loaders:
        dataset.pipeline[1].type = loader
        datasets.append(DATASETS.build(copy.deepcopy(dataset)))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    differences = []
    for step in range(20):
        # Polygons train the model; bitmaps get the same weights, images, flips and sampled boxes.
        both_losses = []
        for dataset in datasets:
            torch.manual_seed(step)
            np.random.seed(step)
            data = pseudo_collate([dataset[step]])
            losses = model(**model.data_preprocessor(data, training=True), mode="loss")
            both_losses.append(losses)
        stock, ours = (model.parse_losses(losses)[1] for losses in both_losses)
        for name in stock.keys() - {"loss", "loss_mask"}:
            assert ours[name] == stock[name], name
        differences.append((ours["loss_mask"] / stock["loss_mask"] - 1).item())
        optimizer.zero_grad()
        model.parse_losses(both_losses[1])[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 35)
        optimizer.step()
    assert 0 < np.abs(differences).max() < 0.02
    assert abs(np.mean(differences)) < 0.005
