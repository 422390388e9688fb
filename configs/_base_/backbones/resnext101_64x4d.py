# ResNeXt-101-64x4d in place of a model's ResNet-50.
backbone = dict(
    type="ResNeXt",
    depth=101,
    groups=64,
    base_width=4,
    init_cfg=dict(checkpoint="open-mmlab://resnext101_64x4d"),
)
