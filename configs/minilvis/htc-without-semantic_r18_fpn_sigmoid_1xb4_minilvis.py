_base_ = [
    "../_base_/models/htc-without-semantic_r18_fpn_mini.py",
    "../_base_/losses/sigmoid.py",
    "../_base_/datasets/minilvis.py",
    "../_base_/schedules/schedule_minilvis.py",
    "../_base_/minilvis_runtime.py",
]

model = dict(
    roi_head=dict(
        bbox_head=[
            dict(stage, num_classes=_base_.num_classes, **classifier)
            for classifier in [_base_.pop("classifier")]
            for stage in _base_.model.roi_head.bbox_head
        ]
    )
)
