# EQL for training sets of any size: its tail is a share of the labels instead of a frequency, as
# large as the paper's lambda makes it on LVIS v0.5.
_base_ = [
    "../../_base_/models/mask-rcnn_r18_fpn_mini.py",
    "../../_base_/datasets/minilvis_coco.py",
    "../../_base_/schedules/schedule_minilvis.py",
    "../../_base_/minilvis_runtime.py",
]

model = dict(
    roi_head=dict(
        bbox_head=dict(
            num_classes=_base_.num_classes,
            cls_predictor_cfg=dict(type="PriorLinear"),
            loss_cls=dict(
                type="EqualizationLoss",
                tail_weighting=dict(type="ThresholdTail", tail_ratio=0.09),
            ),
        )
    )
)
