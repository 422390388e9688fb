_base_ = "./htc_r50_fpn_eql_8xb2-1x_lvis-v1.py"

model = dict(
    backbone=dict(
        type="ResNeXt",
        depth=101,
        groups=64,
        base_width=4,
        init_cfg=dict(checkpoint="open-mmlab://resnext101_64x4d"),
    )
)
