# The recipe of configs/lvis_challenge_2019.
_base_ = [
    "./htc_r18_fpn_eql_1xb4_minilvis.py",
    "../_base_/backbones/resnext50_2x4d_mini.py",
    "../_base_/backbones/dconv_c3-c5.py",
]

# Weights as PyTorch makes them: the small models' initialisation would take the offsets of the
# deformable convolutions, which begin at 0, for weights.
model = dict(backbone=dict(_base_.pop("backbone"), init_cfg=[], **_base_.pop("dconv")))

train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(type="RandomResize", scale=[(128, 128), (192, 192)], keep_ratio=True)
train_dataloader = dict(
    dataset=dict(pipeline=train_pipeline),
    sampler=dict(_delete_=True, type="RepeatFactorSampler", repeat_threshold=1e-2, infinite=True),
)
