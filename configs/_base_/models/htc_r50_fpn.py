# Hybrid Task Cascade R50-FPN with its semantic branch.
_base_ = ["./htc-without-semantic_r50_fpn.py", "../semantic_branches/coco_stuff.py"]

model = dict(data_preprocessor=dict(pad_seg=True), roi_head=_base_.pop("semantic_branch"))
