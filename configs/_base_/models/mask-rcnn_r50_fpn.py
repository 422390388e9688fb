# Mask R-CNN R50-FPN as in the EQL paper: class-agnostic masks, up to 300 detections per image.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

model = dict(
    roi_head=dict(mask_head=dict(class_agnostic=True)),
    test_cfg=dict(rcnn=dict(score_thr=1e-4, max_per_img=300)),
)
