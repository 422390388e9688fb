# RTMDet (arXiv 2212.07784) as MMDetection trains it on COCO, with EQL and repeat factor sampling.
_base_ = ["../_base_/datasets/lvis_v1.py", "../_base_/default_runtime.py"]

from mmengine.hub import get_config

stock = get_config("mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py")
model = stock.model
model.test_cfg.score_thr = 1e-4
model.bbox_head.num_classes = _base_.num_classes
model.bbox_head.loss_cls = dict(type="EqualizationLoss", lambda_=1.1e-3, use_sigmoid=True)

load = dict(type="mmdet_eql.LoadImageFromFile")
train_pipeline = [
    load if step.type == "LoadImageFromFile" else step for step in stock.train_pipeline
]
train_pipeline_stage2 = [
    load if step.type == "LoadImageFromFile" else step for step in stock.train_pipeline_stage2
]
test_pipeline = [
    load if step.type == "LoadImageFromFile" else step
    for step in stock.test_pipeline
    if step.type != "LoadAnnotations"
]
train_dataloader = dict(
    batch_size=32,
    num_workers=10,
    sampler=dict(_delete_=True, type="RepeatFactorSampler", repeat_threshold=1e-3),
    batch_sampler=None,
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = stock.optim_wrapper
param_scheduler = stock.param_scheduler
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=300, val_interval=300)
val_cfg, test_cfg = dict(type="ValLoop"), dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=256)
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type="EMAHook",
        ema_type="ExpMomentumEMA",
        momentum=0.0002,
        update_buffers=True,
        priority=49,
    ),
    dict(type="PipelineSwitchHook", switch_epoch=280, switch_pipeline=train_pipeline_stage2),
]

val_evaluator = dict(metric="bbox")
test_evaluator = val_evaluator

stock.tta_model.tta_cfg.max_per_img = 300
tta_model = dict(stock.tta_model, _delete_=True)
tta_pipeline = stock.tta_pipeline
del stock
