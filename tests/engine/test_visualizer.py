"""Masks as RLE are drawn as mmdet draws bitmaps."""

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

HEIGHT, WIDTH = 40, 60


def draw(kind: str, masks, scores=(0.9, 0.8, 0.1)) -> np.ndarray:
    """Draw three objects, of which two reach the threshold of scores."""
    init_default_scope("mmdet")
    np.random.seed(0)  # mmdet varies the colours of masks
    visualizer = VISUALIZERS.build(dict(type=kind, name=f"{kind} {type(masks)}"))
    visualizer.dataset_meta = dict(classes=("a", "b"), palette=[(250, 0, 0), (0, 250, 0)])
    sample = DetDataSample(
        pred_instances=InstanceData(
            bboxes=torch.tensor([[2.0, 2, 20, 20], [25, 5, 55, 35], [0, 0, 9, 9]]),
            labels=torch.tensor([0, 1, 0]),
            scores=torch.tensor(scores),
            masks=masks,
        )
    )
    visualizer.add_datasample(
        "image", np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8), sample, draw_gt=False
    )
    assert sample.pred_instances.masks is masks
    return visualizer.get_image()


@pytest.fixture
def bitmaps():
    masks = np.zeros((3, HEIGHT, WIDTH), dtype=bool)
    masks[0, 4:18, 3:15] = masks[1, 10:30, 30:50] = masks[2, :9, :9] = True
    return masks


def test_the_same_pixels(bitmaps):
    rles = [mask_utils.encode(np.asfortranarray(mask.view(np.uint8))) for mask in bitmaps]
    expected = draw("DetLocalVisualizer", torch.from_numpy(bitmaps))
    assert np.array_equal(draw("RLEDetLocalVisualizer", rles), expected)
    assert np.array_equal(draw("RLEDetLocalVisualizer", torch.from_numpy(bitmaps)), expected)
    assert expected[12, 35].any()
    assert not draw("RLEDetLocalVisualizer", rles, scores=(0.1, 0.1, 0.1)).any()
