# Boxes alone, for annotations without masks.
_base_ = [
    "../../_base_/models/faster-rcnn_r18_fpn_mini.py",
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

train_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=_base_.backend_args),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=False),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

val_evaluator = dict(metric="bbox")
test_evaluator = val_evaluator
