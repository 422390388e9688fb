"""The losses that EQL is compared with.

focal                   sigmoid focal loss
class_balanced          weights by the effective number of samples, on sigmoids and on a softmax
federated               sigmoid cross-entropy over a few categories of each batch
balanced_group_softmax  BAGS, a softmax for each group of categories of similar size
adaptive_class_suppression  ACSL, negatives of confused categories alone
drop                    DropLoss, EQL that spares the tail most of the background
gumbel                  GOL, Gumbel's distribution in place of the sigmoid
effective_class_margin  ECM, margins by the number of samples
equilibrium             LOCE's loss, margins by the mean score of a category
logit_adjustment        softmax whose scores are adjusted by the frequencies after training
"""
