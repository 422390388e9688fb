# Mask R-CNN R50-FPN as in the EQL paper: class-agnostic masks, up to 300 detections per image.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

model = dict(
    roi_head=dict(
        # A softmax, without arguments that another loss would inherit.
        bbox_head=dict(loss_cls=dict(_delete_=True, type="CrossEntropyLoss")),
        mask_head=dict(class_agnostic=True, num_classes=1),
    ),
    test_cfg=dict(rcnn=dict(score_thr=1e-4, max_per_img=300)),
)
