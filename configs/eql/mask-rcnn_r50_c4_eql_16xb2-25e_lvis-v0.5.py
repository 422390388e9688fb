_base_ = [
    "../_base_/models/mask-rcnn_r50_c4.py",
    "../_base_/losses/eql.py",
    "../_base_/datasets/lvis_v0.5.py",
    "../_base_/schedules/schedule_25e.py",
    "../_base_/default_runtime.py",
]

model = dict(
    roi_head=dict(bbox_head=dict(_base_.pop("classifier"), num_classes=_base_.num_classes))
)
