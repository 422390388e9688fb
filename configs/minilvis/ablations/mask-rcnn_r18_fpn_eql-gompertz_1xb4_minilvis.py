_base_ = "../mask-rcnn_r18_fpn_eql_1xb4_minilvis.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(
            loss_cls=dict(
                lambda_=None, tail_weighting=dict(type="GompertzDecayTail", a=1, b=80, c=3000)
            )
        )
    )
)
