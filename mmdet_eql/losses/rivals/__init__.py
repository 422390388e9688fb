"""The losses that EQL is compared with.

focal                   sigmoid focal loss
class_balanced          weights by the effective number of samples, on sigmoids and on a softmax
federated               sigmoid cross-entropy over a few categories of each batch
balanced_group_softmax  BAGS, a softmax for each group of categories of similar size
logit_adjustment        softmax whose scores are adjusted by the frequencies after training
"""
