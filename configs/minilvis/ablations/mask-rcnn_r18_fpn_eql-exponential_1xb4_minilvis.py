_base_ = ["../mask-rcnn_r18_fpn_eql_1xb4_minilvis.py", "../../_base_/losses/tail_exponential.py"]

model = dict(
    roi_head=dict(
        bbox_head=dict(loss_cls=dict(lambda_=None, tail_weighting=_base_.pop("tail_weighting")))
    )
)
