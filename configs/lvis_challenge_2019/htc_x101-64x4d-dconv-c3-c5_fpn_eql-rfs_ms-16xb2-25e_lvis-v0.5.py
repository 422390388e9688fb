# LVIS Challenge 2019: deformable convolutions, synchronised batch normalisation, training and
# testing at several scales, EQL and repeat factor sampling. See the README beside it.
_base_ = "../eql/htc_r50_fpn_eql_16xb2-25e_lvis-v0.5.py"

model = dict(
    backbone=dict(
        type="ResNeXt",
        depth=101,
        groups=64,
        base_width=4,
        norm_eval=False,
        dcn=dict(type="DCN", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
        init_cfg=dict(checkpoint="open-mmlab://resnext101_64x4d"),
    )
)
sync_bn = "torch"

train_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=_base_.backend_args),
    dict(type="LoadPolygonAnnotations", with_bbox=True, with_mask=True, with_seg=True),
    dict(type="RandomResize", scale=[(1600, 400), (1600, 1400)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    dataset=dict(pipeline=train_pipeline),
    sampler=dict(_delete_=True, type="RepeatFactorSampler", repeat_threshold=1e-3),
)

tta_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=_base_.backend_args),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="Resize", scale=(side * 5 // 3, side), keep_ratio=True)
                for side in (600, 800, 1000, 1200, 1400)
            ],
            [dict(type="RandomFlip", prob=prob) for prob in (0.0, 1.0)],
            [
                dict(
                    type="PackDetInputs",
                    meta_keys=(
                        *("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
                        *("flip", "flip_direction"),
                    ),
                )
            ],
        ],
    ),
]
