# The three-stage Cascade Mask R-CNN R50-FPN; see mask-rcnn_r50_fpn.py.
_base_ = "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py"

model = dict(
    roi_head=dict(mask_head=dict(class_agnostic=True, num_classes=1)),
    test_cfg=dict(rcnn=dict(score_thr=1e-4, max_per_img=300)),
)
