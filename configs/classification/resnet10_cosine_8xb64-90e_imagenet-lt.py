# Softmax on a cosine classifier.
_base_ = "./resnet10_softmax_8xb64-90e_imagenet-lt.py"

model = dict(
    head=dict(
        classifier=dict(type="CosineClassifier", scale=16.0),
    )
)
