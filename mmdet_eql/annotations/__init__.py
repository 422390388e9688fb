"""Annotation files in LVIS and COCO format.

One reader turns a file into one column model, which training, evaluation and reports share::

    from mmdet_eql.annotations import read_annotations
    columns = read_annotations("annotations/lvis_v1_train.json")

    reader               the way from JSON to columns, and to the cache
    columns              the content of a file as arrays
    checks               what a file must hold, and what is wrong with an invalid one
    cache                the columns in a file that all processes map
    box_format           boxes that are no x, y, width, height in pixels
    data_report          what becomes of a file: counts, what is dropped or ignored, warnings
    class_names          the classes of a model among the categories of a file, by name
    segmentation         whether a segmentation can be handed to pycocotools
    dataset_annotations  the columns under the labels of one dataset: its instances
    instance_labels      the labels of the instances of all images, for samplers
    open_images          box counts of an annotation file of the Open Images Challenge
"""

from mmdet_eql.annotations.columns import AnnotationColumns
from mmdet_eql.annotations.reader import read_annotations
