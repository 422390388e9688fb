_base_ = [
    "../_base_/models/htc_r50_fpn.py",
    "../_base_/losses/sigmoid.py",
    "../_base_/datasets/lvis_v0.5.py",
    "../_base_/schedules/schedule_25e.py",
    "../_base_/default_runtime.py",
]

train_pipeline = _base_.train_pipeline
train_pipeline[1].with_seg = True
train_dataloader = dict(
    dataset=dict(data_prefix=dict(seg="stuffthingmaps/"), pipeline=train_pipeline)
)

model = dict(
    roi_head=dict(
        bbox_head=[
            dict(stage, num_classes=_base_.num_classes, **classifier)
            for classifier in [_base_.pop("classifier")]
            for stage in _base_.model.roi_head.bbox_head
        ]
    )
)
