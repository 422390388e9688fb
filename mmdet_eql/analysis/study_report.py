"""The tables of a study (:mod:`mmdet_eql.runs.study_file`), with pages and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmdet.registry import DATASETS

from mmdet_eql.analysis.drawing import draw_predictions
from mmdet_eql.analysis.gradient_plot import format_ratios, plot_gradients
from mmdet_eql.analysis.image_intervals import gain_table
from mmdet_eql.engine.gradient_file import load_gradient_record, pool_records
from mmdet_eql.frequency import class_frequency_of
from mmdet_eql.runs.execution import DETECTIONS_NAME, final_checkpoint
from mmdet_eql.runs.groups import RunGroup, load_groups
from mmdet_eql.runs.page import format_page
from mmdet_eql.runs.planning import RESULT_NAME, SweepRun
from mmdet_eql.runs.plots import save_overview
from mmdet_eql.runs.study_file import Study
from mmdet_eql.runs.tables import format_report
from mmdet_eql.utils.files import write_text


def print_tables(study: Study, runs: Sequence[SweepRun], folder: Path, title: str) -> None:
    """Print the tables, and write them, pages and pictures to a folder.

    What is written already of the same results is not written again.

    Raises:
        UserError: If a run is missing, a result cannot be read, or a file cannot be written.
    """
    runs_of = {run.label: [each for each in runs if each.label == run.label] for run in runs}
    study.check_labels(runs_of, title)  # an entry may repeat that of another name
    for name, labels in study.tables.items():
        table, page = folder / f"{name}.md", folder / f"{name}.html"
        chosen = {label: runs_of[label] for label in labels}
        paths = [run.work_dir for of_label in chosen.values() for run in of_label]
        # What is compared, written last.
        compared = table.with_suffix(".compared")
        made_from = [(str(path), (path / RESULT_NAME).stat().st_mtime) for path in paths]
        results = repr((study.image_bins, study.pictures, made_from))
        if not compared.exists() or compared.read_text(encoding="utf-8") != results:
            groups = load_groups(paths, study.image_bins)
            report = format_report(groups, groups[0], "welch")
            if study.pictures:
                report += f"\n\n{_draw(groups, chosen, table, title)}"
            write_text(table, report + "\n")
            write_text(page, format_page(groups, groups[0], "welch", f"{title}: {name}"))
            write_text(compared, results)
        pictures = [table.with_suffix(".png"), folder / "predictions"] * study.pictures
        print("", table.read_text(encoding="utf-8"), table, page, *pictures, sep="\n", flush=True)
    if study.gradients:
        records = {
            label.removesuffix("-gradients"): pool_records(
                [load_gradient_record(run.work_dir) for run in runs_of[label]]
            )
            for label in study.gradients
        }
        plot_gradients(records, folder / "gradients.png")
        print(f"\n{format_ratios(records)}\n\n{folder / 'gradients.png'}")


def _draw(
    groups: Sequence[RunGroup], runs: Mapping[str, Sequence[SweepRun]], table: Path, title: str
) -> str:
    """Draw AP over frequency and detections; return intervals over the validation images."""
    save_overview(groups, table.with_suffix(".png"), title)
    models = {
        label: (of_label[0].cfg, final_checkpoint(of_label[0].work_dir))
        for label, of_label in runs.items()
    }
    cfg = models[groups[0].label][0]
    frequency = class_frequency_of(DATASETS.build(cfg.train_dataloader.dataset))
    draw_predictions(models, frequency, table.with_name("predictions"))
    detections = {
        label: [run.work_dir / DETECTIONS_NAME for run in of_label]
        for label, of_label in runs.items()
    }
    keys = ("train_ann_file", "max_detections")
    given = {key: cfg.val_evaluator[key] for key in keys if key in cfg.val_evaluator}
    return gain_table(cfg.val_evaluator.ann_file, detections, **given)
