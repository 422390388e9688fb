_base_ = ["./mask-rcnn_r50_fpn_eql_16xb2-25e_lvis-v0.5.py", "../_base_/backbones/resnet101.py"]

model = dict(backbone=_base_.pop("backbone"))
train_dataloader = dict(
    sampler=dict(_delete_=True, type="RepeatFactorSampler", repeat_threshold=5e-4)
)
