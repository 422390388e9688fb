# A mask per category at the cost of one: see mmdet_eql/heads/mask_head.py.
mask_head = dict(type="SelectiveFCNMaskHead", class_agnostic=False)
