# Federated loss of detectron2's LVIS baselines (arXiv 2103.07461).
_base_ = "./mask-rcnn_r50_fpn_8xb2-1x_lvis-v1.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(
            cls_predictor_cfg=dict(type="PriorLinear"),
            loss_cls=dict(type="FederatedLoss"),
        )
    )
)
