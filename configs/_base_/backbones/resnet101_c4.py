# ResNet-101 in place of a C4 model's ResNet-50; the fifth stage, the head's, is as deep in both.
backbone = dict(depth=101, init_cfg=dict(checkpoint="open-mmlab://detectron2/resnet101_caffe"))
shared_head = dict(init_cfg=backbone["init_cfg"])
