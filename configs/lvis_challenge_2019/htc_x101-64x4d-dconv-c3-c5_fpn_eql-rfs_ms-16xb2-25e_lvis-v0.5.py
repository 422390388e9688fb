# LVIS Challenge 2019: deformable convolutions, synchronised batch normalisation, training and
# testing at several scales, EQL and repeat factor sampling. See docs/experiments.md.
_base_ = [
    "../eql/htc_r50_fpn_eql_16xb2-25e_lvis-v0.5.py",
    "../_base_/backbones/resnext101_64x4d.py",
    "../_base_/backbones/dconv_c3-c5.py",
]

model = dict(backbone=dict(_base_.pop("backbone"), norm_eval=False, **_base_.pop("dconv")))
sync_bn = "torch"

train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(type="RandomResize", scale=[(1600, 400), (1600, 1400)], keep_ratio=True)
train_dataloader = dict(
    dataset=dict(pipeline=train_pipeline),
    sampler=dict(_delete_=True, type="RepeatFactorSampler", repeat_threshold=1e-3),
)

tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0] = [
    dict(type="Resize", scale=(side * 5 // 3, side), keep_ratio=True)
    for side in (600, 800, 1000, 1200, 1400)
]
