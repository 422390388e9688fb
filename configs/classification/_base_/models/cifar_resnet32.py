model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(
        type="ImgDataPreprocessor",
        # Of ImageNet, in RGB, as in the code of most papers on CIFAR-LT.
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(type="CIFARResNet", depth=32),
    head=dict(
        type="ClassificationHead",
        in_channels=64,
        loss_cls=dict(type="CrossEntropyLoss"),
    ),
)
