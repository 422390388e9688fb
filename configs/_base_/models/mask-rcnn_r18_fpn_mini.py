# A Mask R-CNN that trains on a CPU: ResNet-18 of half width from scratch, FPN of 64 channels.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

model = dict(
    backbone=dict(
        depth=18,
        base_channels=32,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=dict(_delete_=True, type="Kaiming", layer="Conv2d"),
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        # The smallest objects of a 160-pixel image are about 14 pixels across.
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=28, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(
            in_channels=64,
            fc_out_channels=256,
            # A softmax, without arguments that another loss would inherit.
            loss_cls=dict(_delete_=True, type="CrossEntropyLoss"),
        ),
        mask_roi_extractor=dict(out_channels=64, finest_scale=28, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(
            num_convs=2, in_channels=64, conv_out_channels=32, class_agnostic=True, num_classes=1
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=250),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=500, max_per_img=100),
        rcnn=dict(score_thr=1e-3, max_per_img=60),
    ),
)
