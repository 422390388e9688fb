_base_ = "./mask-rcnn_r18_fpn_sigmoid_1xb4_minilvis.py"

# A category of 5 images among 5,000 comes three times as often.
train_dataloader = dict(
    sampler=dict(_delete_=True, type="RepeatFactorSampler", repeat_threshold=1e-2, infinite=True)
)
