_base_ = "./mask-rcnn_r50_c4_eql_16xb2-25e_lvis-v0.5.py"

# The fifth stage, the head's, is as deep in both.
init_cfg = dict(checkpoint="open-mmlab://detectron2/resnet101_caffe")
model = dict(
    backbone=dict(depth=101, init_cfg=init_cfg), roi_head=dict(shared_head=dict(init_cfg=init_cfg))
)
