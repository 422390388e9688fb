# Mask R-CNN R50-C4; see mask-rcnn_r50_fpn.py.
_base_ = "mmdet::_base_/models/mask-rcnn_r50-caffe-c4.py"

model = dict(
    roi_head=dict(
        # The fifth stage is the head's; MMDetection would leave it at random weights, under batch
        # normalisation that does not learn.
        shared_head=dict(init_cfg=_base_.model.backbone.init_cfg),
        # A softmax, without arguments that another loss would inherit.
        bbox_head=dict(loss_cls=dict(_delete_=True, type="CrossEntropyLoss")),
        mask_head=dict(class_agnostic=True, num_classes=1),
    ),
    test_cfg=dict(rcnn=dict(score_thr=1e-4, max_per_img=300)),
)
