_base_ = "./resnet10.py"

model = dict(
    backbone=dict(type="ResNet", depth=50),
    head=dict(in_channels=2048),
)
