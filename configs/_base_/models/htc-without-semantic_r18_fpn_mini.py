# Hybrid Task Cascade without its semantic branch: a cascade whose mask heads have stages, too, each
# fed with the features of the one before (MMDetection has no base file of it).
_base_ = "./cascade-mask-rcnn_r18_fpn_mini.py"

mask_head = dict(
    type="HTCMaskHead",
    num_convs=2,
    in_channels=64,
    conv_out_channels=64,
    class_agnostic=True,
    loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
)
model = dict(
    type="HybridTaskCascade",
    roi_head=dict(
        type="HybridTaskCascadeRoIHead",
        interleaved=True,
        mask_info_flow=True,
        mask_head=[dict(mask_head, with_conv_res=False), mask_head, mask_head],
    ),
)
