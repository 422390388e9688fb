_base_ = "./mask-rcnn_r50_fpn_16xb2-25e_lvis-v0.5.py"

train_dataloader = dict(sampler=dict(_delete_=True, type="CategoryAwareSampler"))
