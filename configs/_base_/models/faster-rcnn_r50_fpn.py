# Faster R-CNN R50-FPN as in MMDetection's configs of Open Images.
_base_ = "mmdet::_base_/models/faster-rcnn_r50_fpn.py"

model = dict(
    # A softmax, without arguments that another loss would inherit.
    roi_head=dict(bbox_head=dict(loss_cls=dict(_delete_=True, type="CrossEntropyLoss"))),
    test_cfg=dict(rcnn=dict(score_thr=0.01)),
)
