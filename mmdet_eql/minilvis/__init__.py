"""MiniLVIS: a small, rendered, long-tailed instance segmentation set in LVIS format.

It stands in for LVIS in tests, in a first run, in studies of what makes a tail hard. Categories are
combinations of shape, hue and texture whose look-alikes differ widely in frequency, and the labels
are federated as in LVIS.

    config      what can be chosen
    vocabulary  which categories there are, and which rank of the long tail each one holds
    planning    what every image shows, and how much of it is labelled
    layout      where the objects lie, and which of them hide others
    rendering   pixels: backgrounds, clutter, objects
    annotation  visible regions as polygons, and the records of the LVIS format
    folder      writing the files, all or none
    conversion  the set in COCO format, and in that of Open Images
    crops       crops of its objects, a set for classification

Layout of a finished folder::

    minilvis.json                     marker: the configuration, and counts of all objects
    annotations/minilvis_train.json   LVIS format
    annotations/minilvis_val.json
    train/000000000001.jpg            ids run on from train to val
    val/000000005001.jpg
    semantic/train/000000000001.png   background regions, see :data:`BACKGROUND_KINDS`
    semantic/val/000000005001.png
"""

from mmdet_eql.minilvis.config import MiniLVISConfig
from mmdet_eql.minilvis.folder import make_minilvis
from mmdet_eql.minilvis.rendering import BACKGROUND_KINDS
