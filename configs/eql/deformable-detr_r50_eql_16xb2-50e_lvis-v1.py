# Deformable DETR (arXiv 2010.04159) as MMDetection trains it on COCO, with EQL.
_base_ = ["../_base_/datasets/lvis_v1.py", "../_base_/default_runtime.py"]

from mmengine.hub import get_config

stock = get_config("mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py")
model = stock.model
model.test_cfg.max_per_img = 300
model.bbox_head.num_classes = _base_.num_classes
model.bbox_head.loss_cls = dict(type="EqualizationLoss", lambda_=1.1e-3, use_sigmoid=True)

train_pipeline = [
    dict(type="LoadVerifiedImage") if step.type == "LoadImageFromFile" else step
    for step in stock.train_pipeline
]
train_dataloader = dict(
    dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline)
)

optim_wrapper = stock.optim_wrapper
param_scheduler = stock.param_scheduler
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=50, val_interval=50)
val_cfg, test_cfg = dict(type="ValLoop"), dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=32)
del stock

val_evaluator = dict(metric="bbox")
test_evaluator = val_evaluator

tta_model = dict(
    _delete_=True,
    type="DetTTAModel",
    tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=300),
)
