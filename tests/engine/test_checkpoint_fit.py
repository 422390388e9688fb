"""A checkpoint of another model is refused before a test, with the weights that do not fit."""

import copy
import json
import logging
import pickle

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from mmdet_eql.engine.checkpoint import load_checkpoint_file
from mmdet_eql.engine.checkpoint_fit import (
    check_weights,
    has_fitting_weights,
    warn_of_classifier,
    warn_of_other_model,
)
from mmdet_eql.utils.errors import UserError
from tests.config_checks import read
from tests.conftest import CONFIGS

SOFTMAX = "baselines/mask-rcnn_r50_fpn_8xb2-1x_lvis-v1.py"
SIGMOID = "baselines/mask-rcnn_r50_fpn_sigmoid_8xb2-1x_lvis-v1.py"
CASCADE = "baselines/cascade-mask-rcnn_r50_fpn_sigmoid_8xb2-1x_lvis-v1.py"
EQL = "eql/mask-rcnn_r50_fpn_eql_8xb2-1x_lvis-v1.py"
EQL_V2 = "eqlv2/mask-rcnn_r50_fpn_eqlv2_8xb2-1x_lvis-v1.py"
EQL_05 = "eql/mask-rcnn_r50_fpn_eql_16xb2-25e_lvis-v0.5.py"


def build(config: str) -> torch.nn.Module:
    """A model without memory for its weights: names and shapes are compared."""
    init_default_scope("mmdet")
    model = copy.deepcopy(read(CONFIGS / config).model)

    with torch.device("meta"):
        return MODELS.build(model)


@pytest.mark.parametrize(
    ("trained", "tested", "words"),
    [
        (EQL, EQL_05, ["bbox_head.fc_cls.weight of 1203x1024 instead of 1230x1024"]),
        (SOFTMAX, EQL, ["bbox_head.fc_cls.weight of 1204x1024 instead of 1203x1024"]),
        (SOFTMAX, CASCADE, ["it lacks roi_head.bbox_head.0.fc_cls, ", "more"]),
    ],
)
def test_weights_of_another_model(trained, tested, words):
    checkpoint = {"state_dict": build(trained).state_dict()}
    with pytest.raises(UserError, match=r"^a\.pth: does not fit the model") as caught:
        check_weights(build(tested), checkpoint, "a.pth")
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_three_anchors_are_no_three_classes(caplog):
    model, logger = build(EQL), logging.getLogger("anchors")
    warn_of_classifier(model, {"state_dict": model.state_dict()}, "abc", "a.pth", logger)
    assert not caplog.text
    classes = range(len(model.roi_head.bbox_head.fc_cls.weight))
    warn_of_classifier(model, {"state_dict": model.state_dict()}, classes, "a.pth", logger)
    assert "its classifier (roi_head.bbox_head.fc_cls.weight) is loaded" in caplog.text


def test_what_a_test_does_not_need():
    """Statistics of a loss may be missing; parts that the model lacks may be there."""
    weights = build(EQL).state_dict()
    check_weights(build(SIGMOID), {"state_dict": weights}, "a.pth")
    plain = {f"module.{key}": value for key, value in weights.items() if "loss_cls" not in key}
    assert len(plain) < len(weights)
    check_weights(build(EQL), {"state_dict": plain}, "a.pth")
    # A detector without masks finds the same boxes.
    boxes = build(EQL)
    del boxes.roi_head.mask_head
    check_weights(boxes, {"state_dict": weights}, "a.pth")


def test_another_model_of_the_same_shapes_is_named():
    def warned(trained: str, tested: str, **changes) -> str:
        model = read(CONFIGS / trained).model.to_dict()
        text = json.dumps({"type": "FrozenFeatureDetector", "detector": model})
        checkpoint = {"message_hub": {"runtime_info": {"trained_with": {"model": text}}}}
        now = read(CONFIGS / tested).model.to_dict()
        now["roi_head"]["bbox_head"].update(changes)
        logger, lines = logging.getLogger("fit"), []
        logger.warning = lines.append
        warn_of_other_model({"type": "DetTTAModel", "module": now}, checkpoint, "a.pth", logger)
        return " ".join(lines)

    assert "bbox_head.loss_cls.type = 'EqualizationLossV2', which is 'CrossEnt" in warned(
        EQL_V2, SOFTMAX
    )
    assert "cls_predictor_cfg = None, which is {'type': 'NormedLinear'" in warned(
        SOFTMAX, SOFTMAX, cls_predictor_cfg=dict(type="NormedLinear", temperature=20)
    )
    changes = dict(type="PrefixNMSShared2FCBBoxHead", num_classes=None, loss_bbox=dict(type="A"))
    assert warned(EQL, EQL, **changes) == ""
    warn_of_other_model({}, {"message_hub": None}, "a.pth", None)


def test_checkpoints_of_detectron2(tmp_path):
    weights = {"backbone.bottom_up.stem.conv1.weight": np.ones(3, np.float32)}
    path = tmp_path / "model_final_2d9806.pkl"
    with open(path, "wb") as file:
        pickle.dump({"model": weights, "__author__": "Detectron2 Model Zoo"}, file)
    with pytest.raises(UserError, match=r"9806\.pkl: is a pickle as Detectron2's model zoo"):
        load_checkpoint_file(str(path))
    # As its trainer writes them.
    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    tensors = {key: torch.from_numpy(value) for key, value in weights.items()}
    torch.save({"model": tensors, "iteration": 3}, tmp_path / "model.pth")
    checkpoint = load_checkpoint_file(str(tmp_path / "model.pth"))
    assert not has_fitting_weights(model, checkpoint)
    with pytest.raises(UserError, match="is a checkpoint of Detectron2"):
        check_weights(model, checkpoint, "model.pth")
    with pytest.raises(UserError, match=r"none of its weights \(a\.b\) is one of the model"):
        check_weights(model, {"state_dict": {"a.b": torch.ones(1)}}, "model.pth")
