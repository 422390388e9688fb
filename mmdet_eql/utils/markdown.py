"""Markdown tables, which read well as plain text, too."""

from collections.abc import Sequence

from terminaltables import GithubFlavoredMarkdownTable


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first row is the header; all columns but the first align right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    table = GithubFlavoredMarkdownTable(cells)
    table.justify_columns = {index: "right" if index else "left" for index in range(len(rows[0]))}
    return table.table
