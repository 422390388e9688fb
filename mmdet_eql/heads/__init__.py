"""Parts of RoI heads that long-tailed detection needs, and test-time augmentation.

box_head            box heads with that NMS, and a classifier with a prior
classifiers         the last layer: linear, cosine, tau-normalised, scaled
fixed_ap_test_hook  a test for Fixed AP: each category's best detections are let through
multiclass_nms      NMS over a thousand categories: the highest scores first
image_level_labels  which categories are verified in an image: from the ground truth to the loss
mask_head           mask heads that compute one mask per RoI, and their cascades
mask_pasting        masks as run-length encodings of the image's size
roi_align           RoIAlign on the CPU
roi_head            the stages of a RoI head, and the semantic features of HTC
instance_tta        test-time augmentation of boxes and masks
"""

from mmdet_eql.heads.box_head import (
    PrefixNMSConvFCBBoxHead,
    PrefixNMSHeadMixin,
    PrefixNMSShared2FCBBoxHead,
    PrefixNMSShared4Conv1FCBBoxHead,
    PriorLinear,
)
from mmdet_eql.heads.classifiers import (
    CosineClassifier,
    LinearClassifier,
    ScaledClassifier,
    TauNormalizedClassifier,
)
from mmdet_eql.heads.fixed_ap_test_hook import FixedAPTestHook
from mmdet_eql.heads.image_level_labels import (
    ImageLevelDIIHead,
    ImageLevelFCOSHead,
    ImageLevelLabelDenseHeadMixin,
    ImageLevelLabelHeadMixin,
    ImageLevelLabelSampler,
    ImageLevelPseudoSampler,
    ImageLevelShared2FCBBoxHead,
    ImageLevelYOLOXHead,
    passing_labels,
)
from mmdet_eql.heads.instance_tta import InstanceTTAModel
from mmdet_eql.heads.mask_head import (
    SelectiveFCNMaskHead,
    SelectiveHTCMaskHead,
    SelectiveMaskCascadeRoIHead,
    SelectiveMaskHTCRoIHead,
)
from mmdet_eql.heads.mask_pasting import paste_as_rle
from mmdet_eql.heads.multiclass_nms import multiclass_nms
from mmdet_eql.heads.roi_align import SeparableRoIAlign, SeparableRoIExtractor
