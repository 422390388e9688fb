# A ResNeXt-50 as narrow as a small model's ResNet-18, which it takes the place of.
backbone = dict(type="ResNeXt", depth=50, groups=2, base_width=4, base_channels=8)
