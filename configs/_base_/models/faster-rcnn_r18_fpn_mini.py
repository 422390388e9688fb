# The small Mask R-CNN without its mask head.
_base_ = "./mask-rcnn_r18_fpn_mini.py"

model = dict(type="FasterRCNN", roi_head=dict(mask_roi_extractor=None, mask_head=None))
