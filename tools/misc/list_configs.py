"""List experiments in a line each: model, loss, sampler, dataset and length of training."""

import argparse
import os
from pathlib import Path

# What is registered for configs is not needed here and takes seconds to import.
os.environ["MMDET_EQL_REGISTER"] = "off"

from mmdet_eql.utils.errors import UserError, exit_on_user_error
from mmdet_eql.utils.processes import process_pool

CONFIGS = Path(__file__).parents[2] / "configs"
# Arguments of a loss that are shown if the config sets them.
SHOWN = ("lambda_", "lambda_count", "gamma", "exclude_background", "image_level_labels")


def line_of(path: Path) -> str:
    """Summarize what a config trains."""
    from mmengine.config import Config

    cfg = Config.fromfile(path, import_custom_modules=False)
    dataset, sampler = cfg.train_dataloader.dataset, cfg.train_dataloader.sampler.type
    # The folder tells datasets of one class apart.
    by_folder = dataset.type in ("LVISFormatDataset", "CountedOpenImagesChallengeDataset")
    length = f"{cfg.train_cfg.get('max_iters')} iterations"
    if epochs := cfg.train_cfg.get("max_epochs"):
        length = f"{epochs} epochs"
    parts = (
        str(path.relative_to(CONFIGS) if path.is_relative_to(CONFIGS) else path),
        _model(cfg.model),
        _loss(cfg.model),
        sampler if sampler not in ("DefaultSampler", "InfiniteSampler") else "",
        Path(dataset.data_root).name if by_folder else dataset.type,
        f"{length} of {cfg.auto_scale_lr.base_batch_size} images per step",
    )
    return " | ".join(filter(None, parts))


def _model(model: dict) -> str:
    depth = model.backbone.get("depth")
    parts = [model.type, model.backbone.type + (f"-{depth}" if depth else "")]
    roi_head = model.get("roi_head", {})
    if "dcn" in model.backbone:
        parts.append("deformable")
    if "semantic_head" in roi_head:
        parts.append("semantic branch")
    if "shared_head" in roi_head:
        parts.append("C4")
    return ", ".join(parts)


def _loss(model: dict) -> str:
    head = model.roi_head.bbox_head if "roi_head" in model else None
    head = head or model.get("bbox_head") or model.head  # of two stages, of one, of images
    loss = (head[0] if isinstance(head, list) else head).loss_cls
    shown = [f"{key}={loss[key]}" for key in SHOWN if loss.get(key) is not None]
    if loss.get("tail_weighting"):
        shown.append(loss.tail_weighting.type)
    return loss.type + (f"({', '.join(shown)})" if shown else "")


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="*", type=Path, help="configs or folders; default: configs/")
    args = parser.parse_args()
    paths = []
    for path in args.path or [CONFIGS]:
        found = [path] if path.is_file() else sorted(path.rglob("*.py"))
        if not found:
            raise UserError(f"{path}: holds no configs; give a folder that does.")
        paths += [each.resolve() for each in found if "_base_" not in each.parts]
    with process_pool() as pool:
        for line in pool.map(line_of, paths):
            print(line, flush=True)


if __name__ == "__main__":
    main()
