# An ATSS that trains on a CPU: ResNet-18 of half width from scratch, FPN of 64 channels.
_base_ = "./atss_r50_fpn.py"

model = dict(
    backbone=dict(
        depth=18,
        base_channels=32,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=dict(_delete_=True, type="Kaiming", layer="Conv2d"),
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, num_outs=3),
    bbox_head=dict(
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        # The smallest objects of a 160-pixel image are about 14 pixels across.
        anchor_generator=dict(scales=[2, 4], strides=[8, 16, 32]),
    ),
    test_cfg=dict(nms_pre=500, score_thr=1e-3, max_per_img=60),
)
