_base_ = "./cifar_resnet32.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ResNet",
        depth=50,
        out_indices=(3,),
        norm_eval=False,
        zero_init_residual=False,
    ),
    head=dict(in_channels=2048),
)
