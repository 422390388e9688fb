# Tail ratio: 9.83 %.
_base_ = "../eql/mask-rcnn_r50_fpn_eql_16xb2-25e_lvis-v0.5.py"

model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(lambda_=2e-3))))
