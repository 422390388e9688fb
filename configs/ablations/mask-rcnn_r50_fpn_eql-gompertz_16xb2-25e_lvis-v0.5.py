_base_ = [
    "../eql/mask-rcnn_r50_fpn_eql_16xb2-25e_lvis-v0.5.py",
    "../_base_/losses/tail_gompertz.py",
]

model = dict(
    roi_head=dict(
        bbox_head=dict(loss_cls=dict(lambda_=None, tail_weighting=_base_.pop("tail_weighting")))
    )
)
