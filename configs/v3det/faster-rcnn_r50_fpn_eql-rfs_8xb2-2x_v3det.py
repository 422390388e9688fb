# EQL, whose tail is a share of the labels, with repeat factor sampling. Boxes are regressed for all
# categories together: 13,204 regressors would be half of the model.
_base_ = [
    "../_base_/models/faster-rcnn_r50_fpn.py",
    "../_base_/datasets/v3det.py",
    "../_base_/schedules/schedule_2x.py",
    "../_base_/default_runtime.py",
]

model = dict(
    roi_head=dict(
        bbox_head=dict(
            type="PrefixNMSShared2FCBBoxHead",
            num_classes=_base_.num_classes,
            reg_class_agnostic=True,
            cls_predictor_cfg=dict(type="PriorLinear"),
            loss_cls=dict(
                type="EqualizationLoss",
                tail_weighting=dict(type="ThresholdTail", tail_ratio=0.09),
            ),
        )
    ),
    test_cfg=dict(rcnn=dict(score_thr=1e-4, max_per_img=300)),
)
train_dataloader = dict(
    sampler=dict(_delete_=True, type="RepeatFactorSampler", repeat_threshold=1e-3)
)
