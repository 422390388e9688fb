_base_ = ["./mask-rcnn_r18_fpn_1xb4_minilvis.py", "../_base_/losses/bags.py"]

model = dict(roi_head=dict(bbox_head=_base_.pop("classifier")))
