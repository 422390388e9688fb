"""More than one look at an image: augmentation at test time."""

from mmdet_eql.test_time.instance_tta import InstanceTTAModel

__all__ = ["InstanceTTAModel"]
