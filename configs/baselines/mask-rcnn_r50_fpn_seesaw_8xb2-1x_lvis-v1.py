_base_ = ["./mask-rcnn_r50_fpn_8xb2-1x_lvis-v1.py", "../_base_/losses/seesaw.py"]

_base_.classifier.loss_cls.num_classes = _base_.num_classes
model = dict(roi_head=dict(bbox_head=_base_.pop("classifier")))
