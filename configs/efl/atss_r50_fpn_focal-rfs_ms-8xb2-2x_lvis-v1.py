_base_ = "./atss_r50_fpn_efl-rfs_ms-8xb2-2x_lvis-v1.py"

model = dict(bbox_head=dict(loss_cls=dict(type="SigmoidFocalLoss")))
