_base_ = ["./mask-rcnn_r18_fpn_1xb4_minilvis.py", "../_base_/losses/seesaw.py"]

_base_.classifier.loss_cls.num_classes = _base_.num_classes
model = dict(roi_head=dict(bbox_head=_base_.pop("classifier")))
