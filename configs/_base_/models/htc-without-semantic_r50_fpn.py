# Hybrid Task Cascade R50-FPN without its semantic branch: a cascade whose mask heads have stages,
# too, each fed with the features of the one before (MMDetection has no base file of it). See
# mask-rcnn_r50_fpn.py.
_base_ = "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py"

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
                num_convs=4,
                in_channels=256,
                conv_out_channels=256,
                class_agnostic=True,
                num_classes=1,
                loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
            )
            for stage in range(3)
        ],
    ),
    test_cfg=dict(rcnn=dict(score_thr=1e-4, max_per_img=300)),
)
