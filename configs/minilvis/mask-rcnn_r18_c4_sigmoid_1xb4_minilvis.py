_base_ = [
    "../_base_/models/mask-rcnn_r18_c4_mini.py",
    "../_base_/losses/sigmoid.py",
    "../_base_/datasets/minilvis.py",
    "../_base_/schedules/schedule_minilvis.py",
    "../_base_/minilvis_runtime.py",
]

model = dict(
    roi_head=dict(bbox_head=dict(_base_.pop("classifier"), num_classes=_base_.num_classes))
)
