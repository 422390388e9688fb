"""Datasets that know how often each category occurs, and their samplers and pipeline steps.

lvis              any dataset in LVIS or COCO format
open_images       Open Images Challenge 2019
image_file        whether image files are whole, how EXIF data turn them
data_report_hook  logs what the data are before training
polygon_masks     masks of training images that stay polygons until the mask head draws them
copy_paste        copy-paste by repeat factors, with image-level labels
transforms        pipeline steps: checked images, image-level labels
samplers          repeat factors, class-aware sampling, mixtures
"""

from mmdet_eql.annotations.instance_labels import InstanceLabels, instance_labels_of
from mmdet_eql.datasets.copy_paste import RepeatFactorCopyPaste
from mmdet_eql.datasets.data_report_hook import DataReportHook
from mmdet_eql.datasets.lvis import LVISFormatDataset
from mmdet_eql.datasets.open_images import CountedOpenImagesChallengeDataset
from mmdet_eql.datasets.polygon_masks import LazyBitmapMasks, LoadPolygonAnnotations
from mmdet_eql.datasets.samplers import CategoryAwareSampler, MixedSampler, RepeatFactorSampler
from mmdet_eql.datasets.transforms import LoadVerifiedImage, MixImageLevelLabels, PackLVISInputs
