# The three-stage Cascade Mask R-CNN of a size that trains on a CPU; see mask-rcnn_r18_fpn_mini.py.
_base_ = "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py"

model = dict(
    backbone=dict(
        depth=18,
        base_channels=32,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=dict(_delete_=True, type="Kaiming", layer="Conv2d"),
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=28, roi_layer=dict(sampling_ratio=1)),
        bbox_head=[
            dict(stage, in_channels=64, fc_out_channels=256)
            for stage in _base_.model.roi_head.bbox_head
        ],
        mask_roi_extractor=dict(out_channels=64, finest_scale=28, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(
            num_convs=2, in_channels=64, conv_out_channels=32, class_agnostic=True, num_classes=1
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=250),
        rcnn=[
            dict(stage, sampler=dict(stage.sampler, num=64))
            for stage in _base_.model.train_cfg.rcnn
        ],
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=500, max_per_img=100),
        rcnn=dict(score_thr=1e-3, max_per_img=60),
    ),
)
