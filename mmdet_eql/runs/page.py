"""A comparison of runs as one HTML page that needs neither other files nor the network."""

import re
from collections.abc import Sequence

from jinja2 import Environment

from mmdet_eql.runs import plots
from mmdet_eql.runs.groups import BY_IMAGES, TITLES, RunGroup, kinds_of
from mmdet_eql.runs.tables import describe, difference_rows, mean_rows

_TEMPLATE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
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
</style></head>
<body>
<h1>{{ title }}</h1>
<p>{{ number_of_runs }} runs in {{ groups | length }} groups.</p>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% for table in section.tables %}
<div class="scroll"><table>
<thead><tr>{% for cell in table[0] %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table[1:] %}
<tr><td>{{ row[0] | replace("_", "_<wbr>" | safe) }}</td>
{%- for cell in row[1:] %}<td class="{{ cell | trend }}">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
<div class="plots">
{% for caption, svg in section.plots if svg %}
<figure>{{ svg | safe }}<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</div>
{% endfor %}
<p>{{ explanation }}</p>
<details><summary>The runs</summary><ul>
{% for group in groups %}
<li><b>{{ group.label }}</b>: {{ group.records[0].config }}, seeds
{{ group.records | join(", ", attribute="seed") }}
{%- for key, value in group.records[0].options.items() %}; {{ key }} = {{ value }}{% endfor %}</li>
{% endfor %}
</ul><p>{{ versions | join(", ") }}</p></details>
</body></html>
"""


def format_page(
    groups: Sequence[RunGroup], baseline: RunGroup, test: str, title: str = "Comparison of runs"
) -> str:
    """Format tables and plots of groups of runs as an HTML page.

    Cells of significant differences are coloured. ``baseline`` is one of the groups, ``test`` is
    ``"welch"`` or ``"paired"``, ``title`` the heading.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["trend"] = _trend
    records = [record for group in groups for record in group.records]
    versions = {f"{name} {version}" for r in records for name, version in r.versions.items()}
    kinds = kinds_of(groups).items()
    return environment.from_string(_TEMPLATE).render(
        title=title,
        number_of_runs=len(records),
        groups=groups,
        sections=[_section(groups, baseline, kind, metrics, test) for kind, metrics in kinds],
        explanation=describe(groups, baseline, test),
        versions=sorted(versions),
    )


def _section(
    groups: Sequence[RunGroup], baseline: RunGroup, kind: str, metrics: Sequence[str], test: str
) -> dict:
    tables = [mean_rows(groups, kind, metrics)]
    if len(groups) > 1:
        tables.append(difference_rows(groups, baseline, kind, metrics, test))
    drawn = []
    if not kind.endswith(BY_IMAGES):  # the plots over frequency show the same finer
        lines = "lines are means of categories of similar frequency."
        caption = "Mean and standard deviation of each group; small dots are single runs."
        drawn.append((caption, plots.plot_metrics(groups, kind)))
        caption = f"Each category over its training images; {lines}"
        drawn.append((caption, plots.plot_categories(groups, kind)))
        caption = f"Gain over {baseline.label} by category; {lines}"
        drawn.append((caption, plots.plot_categories(groups, kind, baseline)))
        for metric in ("AP", "APr") if "AP" in metrics else ("top1", "few"):
            caption = f"Learning curves of {metric}; mean and standard deviation over the runs."
            drawn.append((caption, plots.plot_learning_curves(groups, kind, metric)))
    title = TITLES[kind][0].upper() + TITLES[kind][1:]
    return {"title": title, "tables": tables, "plots": drawn}


def _trend(cell: str) -> str:
    """The class of a cell: "up" or "down" for a significant difference."""
    if not re.search(r"\d\] \*+$", cell):
        return ""
    return "up" if cell.startswith("+") else "down"
