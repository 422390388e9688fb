# Test-time augmentation, for `tools/test.py --tta`: three scales, each as it is and mirrored. The
# merged boxes go through the NMS of the model's test_cfg.rcnn.
tta_model = dict(type="InstanceTTAModel")

tta_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=None),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="Resize", scale=scale, keep_ratio=True)
                for scale in ((1333, 800), (1067, 640), (1600, 960))
            ],
            [dict(type="RandomFlip", prob=prob) for prob in (0.0, 1.0)],
            [
                dict(
                    type="PackDetInputs",
                    meta_keys=(
                        *("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
                        *("flip", "flip_direction"),
                    ),
                )
            ],
        ],
    ),
]
