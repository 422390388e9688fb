# EFL's rows of YOLOX: its backbone, neck and augmentations, with the assignment of ATSS and two
# anchors per place in place of YOLOX's own head.
_base_ = [
    "../_base_/models/atss_r50_fpn.py",
    "../_base_/datasets/lvis_v1.py",
    "../_base_/default_runtime.py",
]

from mmengine.hub import get_config

stock = get_config("mmdet::yolox/yolox_s_8xb8-300e_coco.py")
model = dict(
    data_preprocessor=dict(stock.model.data_preprocessor, _delete_=True),
    backbone=dict(stock.model.backbone, _delete_=True),
    neck=dict(stock.model.neck, _delete_=True),
    bbox_head=dict(
        num_classes=_base_.num_classes,
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        anchor_generator=dict(scales=[3, 4], strides=[8, 16, 32]),
        loss_cls=dict(type="EqualizedFocalLoss", scale_factor=4.0),
    ),
    test_cfg=dict(nms_pre=1000, nms=dict(iou_threshold=0.65)),
)

load = dict(type="mmdet_eql.LoadImageFromFile")
test_pipeline = [
    load if step.type == "LoadImageFromFile" else step
    for step in stock.test_pipeline
    if step.type != "LoadAnnotations"
]
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    sampler=dict(_delete_=True, type="RepeatFactorSampler", repeat_threshold=1e-3),
    batch_sampler=None,
    dataset=dict(
        _delete_=True,
        type="MultiImageMixDataset",
        dataset=dict(
            _base_.train_dataloader.dataset,
            pipeline=[load, dict(type="LoadAnnotations", with_bbox=True)],
        ),
        pipeline=stock.train_pipeline,
    ),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = stock.optim_wrapper
optim_wrapper.optimizer.lr = 0.02
param_scheduler = [
    dict(step, eta_min=1e-3) if step.type == "CosineAnnealingLR" else step
    for step in stock.param_scheduler
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=300, val_interval=300)
val_cfg, test_cfg = dict(type="ValLoop"), dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=64)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type="YOLOXModeSwitchHook", num_last_epochs=15, priority=48),
    dict(
        type="EMAHook",
        ema_type="ExpMomentumEMA",
        momentum=0.0002,
        update_buffers=True,
        priority=49,
    ),
]

val_evaluator = dict(metric="bbox")
test_evaluator = val_evaluator

stock.tta_model.tta_cfg.max_per_img = 300
tta_model = dict(stock.tta_model, _delete_=True)
tta_pipeline = stock.tta_pipeline
del stock
