"""Recording gradients: a training step with GradientRecordHook and without.

The step is that of training_step.py: a small Mask R-CNN with EQL, whose other work is little, so
that what the hook adds weighs more than in a ResNet-50.
"""

import tempfile
from types import SimpleNamespace

import numpy as np
from side_by_side import LVIS_CATEGORIES, Comparison, Target, Workload, compare
from training_step import CONFIG, NUM_PROPOSALS, make_model, step_of

from mmdet_eql.engine import GradientRecordHook
from mmdet_eql.frequency import ClassFrequency

PART = "gradient record"


def measure(quick: bool) -> list[Comparison]:
    """Compare a step that is recorded to one that is not."""
    model = make_model(CONFIG, LVIS_CATEGORIES, NUM_PROPOSALS)
    return compare(
        PART,
        f"training step of Mask R-CNN R18, 2 x {NUM_PROPOSALS} proposals, {LVIS_CATEGORIES:,} "
        "categories, recorded",
        recorded(LVIS_CATEGORIES),
        {"not recorded": step_of(model, LVIS_CATEGORIES)},
        {"not recorded": Target(ratio=1 / 1.02)},
        repeats=5 if quick else 15,
    )


def recorded(num_classes: int, num_proposals: int = NUM_PROPOSALS) -> Workload:
    """A training step with the hook; its notes, once in hundreds of steps, are left out."""
    model = make_model(CONFIG, num_classes, num_proposals)
    names = tuple(map(str, range(num_classes)))
    counts = np.ones(num_classes, np.int64)
    runner = SimpleNamespace(
        model=model,
        train_dataloader=SimpleNamespace(
            dataset=SimpleNamespace(class_frequency=ClassFrequency(counts, counts, 1, names))
        ),
        iter=0,
        optim_wrapper=None,
        work_dir=tempfile.gettempdir(),
    )
    hook = GradientRecordHook()
    hook.before_train(runner)
    step = step_of(model, num_classes)

    def recorded_step() -> GradientRecordHook:
        hook.before_train_iter(runner, 0)
        step()
        hook.after_train_iter(runner, 0)
        return hook

    return recorded_step
