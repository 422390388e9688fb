# Softmax on a cosine classifier.
_base_ = "./resnet14_softmax_1xb64-40e_minilvis-crops.py"

model = dict(
    head=dict(
        classifier=dict(type="CosineClassifier", scale=16.0),
    )
)
