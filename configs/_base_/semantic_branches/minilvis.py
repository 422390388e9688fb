# Of the small model, learning the kinds of background that MiniLVIS draws.
_base_ = "./coco_stuff.py"

semantic_branch = dict(
    semantic_roi_extractor=dict(roi_layer=dict(sampling_ratio=1), out_channels=64),
    semantic_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=7),
)
