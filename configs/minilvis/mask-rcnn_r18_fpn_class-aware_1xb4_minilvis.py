_base_ = "./mask-rcnn_r18_fpn_1xb4_minilvis.py"

train_dataloader = dict(sampler=dict(_delete_=True, type="CategoryAwareSampler", infinite=True))
