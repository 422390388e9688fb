# Hybrid Task Cascade without its semantic branch, of a size that trains on a CPU; see
# htc-without-semantic_r50_fpn.py.
_base_ = "./cascade-mask-rcnn_r18_fpn_mini.py"

model = dict(
    type="HybridTaskCascade",
    roi_head=dict(
        type="HybridTaskCascadeRoIHead",
        interleaved=True,
        mask_info_flow=True,
        mask_head=[
            dict(
                type="HTCMaskHead",
                with_conv_res=stage > 0,
                num_convs=2,
                in_channels=64,
                conv_out_channels=64,
                class_agnostic=True,
                num_classes=1,
                loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
            )
            for stage in range(3)
        ],
    ),
)
