_base_ = "./mask-rcnn_r50_fpn_eql_16xb2-25e_lvis-v0.5.py"

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint="torchvision://resnet101")))
train_dataloader = dict(
    sampler=dict(_delete_=True, type="RepeatFactorSampler", repeat_threshold=5e-4)
)
