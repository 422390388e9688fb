# The one-stage detector that EFL improves on (arXiv 2201.02593, section 4): ATSS with two anchors
# per place. It has ATSS' centerness where that one has a branch for the IoU.
_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"

model = dict(
    type="ATSS",
    neck=dict(add_extra_convs="on_output"),
    bbox_head=dict(
        _delete_=True,
        type="ATSSHead",
        num_classes=80,
        in_channels=256,
        feat_channels=256,
        stacked_convs=4,
        anchor_generator=dict(
            type="AnchorGenerator", ratios=[1.0], scales=[6, 8], strides=[8, 16, 32, 64, 128]
        ),
        bbox_coder=dict(
            type="DeltaXYWHBBoxCoder",
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[0.1, 0.1, 0.2, 0.2],
        ),
        loss_cls=dict(type="SigmoidFocalLoss", use_sigmoid=True),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        init_cfg=dict(
            type="Normal",
            layer="Conv2d",
            std=0.01,
            override=dict(type="Normal", name="atss_cls", std=0.01, bias_prob=0.001),
        ),
    ),
    train_cfg=dict(assigner=dict(_delete_=True, type="ATSSAssigner", topk=18)),
    test_cfg=dict(nms_pre=6000, score_thr=0.0, max_per_img=300),
)
