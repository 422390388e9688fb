_base_ = ["./mask-rcnn_r50_fpn_8xb2-1x_lvis-v1.py", "../_base_/losses/cb-softmax.py"]

model = dict(roi_head=dict(bbox_head=_base_.pop("classifier")))
