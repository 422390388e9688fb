"""A training that takes only a part of another model's weights."""

from collections.abc import Sequence

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdet_eql.engine.class_list_hook import is_training
from mmdet_eql.utils.errors import UserError


@HOOKS.register_module()
class PartialLoadHook(Hook):
    """Leave parts of the model out when a training begins from the weights of ``load_from``.

    mmengine leaves out what differs in shape: the classifier of a set with another number of
    categories. Where the numbers agree it would load the classifier, too, and with it what the
    other model knows about the categories. Testing and resuming load everything.

    Args:
        leave_out (Sequence[str]): Dotted names of modules or parameters that keep their
            initialization, such as ``"roi_head.bbox_head.fc_cls"``.
    """

    def __init__(self, leave_out: Sequence[str]) -> None:
        if isinstance(leave_out, str) or not all(isinstance(name, str) for name in leave_out):
            raise UserError(
                f"PartialLoadHook.leave_out is {leave_out!r}; give a list of dotted names of "
                "modules, such as ['roi_head.bbox_head.fc_cls']."
            )
        self.leave_out = tuple(leave_out)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the parts out of a checkpoint; a UserError if it has no weights of one of them."""
        if not is_training(runner) or runner.cfg.get("resume"):
            return
        weights = checkpoint.get("state_dict", checkpoint)
        for name in self.leave_out:
            keys = [key for key in weights if f"{key}.".startswith(f"{name}.")]
            if not keys:
                parts = sorted({key.rpartition(".")[0] for key in weights})
                raise UserError(
                    f"PartialLoadHook.leave_out: {runner.cfg.load_from} has no part {name!r}; "
                    f"correct the name. Its last parts are {', '.join(parts[-6:])}."
                )
            for key in keys:
                del weights[key]
