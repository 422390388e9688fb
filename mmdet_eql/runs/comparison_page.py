"""A comparison of runs as one HTML page that needs neither other files nor the network."""

import html
import re
from collections.abc import Sequence

from mmdet_eql.runs import comparison_plots as plots
from mmdet_eql.runs.comparison_report import TITLES, describe, difference_rows, mean_rows
from mmdet_eql.runs.image_bins import BY_IMAGES
from mmdet_eql.runs.run_groups import RunGroup, kinds_of

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto;
       max-width: 76rem; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #ddd; }
p { max-width: 46rem; }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap;
         border-bottom: 1px solid #e5e5e5; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff;
         white-space: normal; min-width: 8rem; overflow-wrap: break-word; }
thead th { border-bottom: 2px solid #999; }
td.up { background: #e3f1ea; } td.down { background: #fbe6dc; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr));
         gap: 1rem; }
figure { margin: 0; max-width: 40rem; }
figcaption { font-size: .875rem; color: #444; }
svg { width: 100%; height: auto; display: block; }
details { margin: 1rem 0; font-size: .875rem; overflow-wrap: anywhere; }
"""


def format_page(
    groups: Sequence[RunGroup], baseline: RunGroup, test: str, title: str = "Comparison of runs"
) -> str:
    """Tables and plots of groups of runs.

    Args:
        groups (Sequence[RunGroup]): The groups, with the baseline.
        baseline (RunGroup): One of them.
        test (str): ``"welch"`` or ``"paired"``.
        title (str): Heading.

    Returns:
        str: An HTML page. Cells of differences that are marked as significant are coloured.
    """
    image_count = _image_count(groups)
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(_summary(groups))}</p>"]
    for kind, figures in kinds_of(groups).items():
        name = TITLES[kind][0].upper() + TITLES[kind][1:]
        parts.append(f"<h2>{html.escape(name)}</h2>")
        parts.append(_table(mean_rows(groups, kind, figures)))
        if len(groups) > 1:
            parts.append(_table(difference_rows(groups, baseline, kind, figures, test)))
        if kind.endswith(BY_IMAGES):
            # The plots over frequency show the same finer.
            continue
        main = "AP" if "AP" in figures else "top1"
        tail = "APr" if "APr" in figures else "few"
        pictures = {
            "Mean and standard deviation of each group; small dots are single runs.": (
                plots.plot_figures(groups, kind, figures)
            ),
            "Each category over its training images; lines are means of categories of like "
            "frequency.": plots.plot_categories(groups, kind, image_count),
            f"Gain over {baseline.label} by category; lines are means of categories of like "
            "frequency.": plots.plot_gains(groups, baseline, kind, image_count),
            f"Learning curves of {main}; mean and standard deviation over the runs.": (
                plots.plot_learning_curves(groups, kind, main)
            ),
            f"Learning curves of {tail}; mean and standard deviation over the runs.": (
                plots.plot_learning_curves(groups, kind, tail)
            ),
        }
        shown = [_figure(text, svg) for text, svg in pictures.items() if svg]
        parts.append(f'<div class="plots">{"".join(shown)}</div>')
    parts.append(f"<p>{html.escape(describe(groups, baseline, test))}</p>")
    parts.append(_details(groups))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _summary(groups: Sequence[RunGroup]) -> str:
    runs = sum(len(group.records) for group in groups)
    return f"{runs} runs in {len(groups)} groups."


def _image_count(groups: Sequence[RunGroup]) -> dict[str, int]:
    """Training images of each category, from the first run that knows them."""
    records = (record for group in groups for record in group.records)
    return next((record.image_count for record in records if record.image_count), {})


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join(
        f"<tr>{_label_cell(label)}{''.join(map(_cell, cells))}</tr>" for label, *cells in rows[1:]
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _label_cell(text: str) -> str:
    # Long names break where their parts meet.
    return f"<td>{html.escape(text).replace('_', '_<wbr>')}</td>"


def _cell(text: str) -> str:
    kind = ""
    if re.search(r"\d\] \*+$", text):
        kind = ' class="up"' if text.startswith("+") else ' class="down"'
    return f"<td{kind}>{html.escape(text)}</td>"


def _figure(caption: str, svg: str) -> str:
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _details(groups: Sequence[RunGroup]) -> str:
    items = []
    for group in groups:
        first = group.records[0]
        seeds = ", ".join(str(record.seed) for record in group.records)
        options = "; ".join(f"{key} = {value}" for key, value in first.options.items())
        text = f"{first.config}, seeds {seeds}" + (f"; {options}" if options else "")
        items.append(f"<li><b>{html.escape(group.label)}</b>: {html.escape(text)}</li>")
    versions = {
        f"{name} {version}"
        for group in groups
        for record in group.records
        for name, version in record.versions.items()
    }
    text = html.escape(", ".join(sorted(versions)))
    return f"<details><summary>The runs</summary><ul>{''.join(items)}</ul><p>{text}</p></details>"
