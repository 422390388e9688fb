_base_ = ["./mask-rcnn_r50_fpn_16xb2-25e_lvis-v0.5.py", "../_base_/losses/federated.py"]

model = dict(roi_head=dict(bbox_head=_base_.pop("classifier")))
