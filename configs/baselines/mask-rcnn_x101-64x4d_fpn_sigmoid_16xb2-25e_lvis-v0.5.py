_base_ = "./mask-rcnn_r50_fpn_sigmoid_16xb2-25e_lvis-v0.5.py"

model = dict(
    backbone=dict(
        type="ResNeXt",
        depth=101,
        groups=64,
        base_width=4,
        init_cfg=dict(checkpoint="open-mmlab://resnext101_64x4d"),
    )
)
