# A Mask R-CNN C4 that trains on a CPU: ResNet-18 of half width from scratch, small regions.
_base_ = "mmdet::_base_/models/mask-rcnn_r50-caffe-c4.py"

_base_.pop("norm_cfg")  # a variable of MMDetection's file

model = dict(
    backbone=dict(
        depth=18,
        base_channels=32,
        frozen_stages=-1,
        norm_cfg=dict(requires_grad=True),
        norm_eval=False,
        init_cfg=dict(_delete_=True, type="Kaiming", layer="Conv2d"),
    ),
    rpn_head=dict(
        in_channels=128,
        feat_channels=64,
        # The smallest objects of a 160-pixel image are about 14 pixels across.
        anchor_generator=dict(scales=[1, 2, 4]),
    ),
    roi_head=dict(
        # As wide as a ResNet-18's fourth stage, which is its fifth at half width.
        shared_head=dict(depth=18, stage=2, norm_cfg=dict(requires_grad=True), norm_eval=False),
        bbox_roi_extractor=dict(out_channels=128, roi_layer=dict(output_size=7, sampling_ratio=1)),
        bbox_head=dict(
            in_channels=256,
            roi_feat_size=4,
            # A softmax, without arguments that another loss would inherit.
            loss_cls=dict(_delete_=True, type="CrossEntropyLoss"),
        ),
        mask_head=dict(in_channels=256, conv_out_channels=32, class_agnostic=True, num_classes=1),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=250),
        rcnn=dict(sampler=dict(num=32), mask_size=8),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=500, max_per_img=50),
        rcnn=dict(score_thr=1e-3, max_per_img=60),
    ),
)
