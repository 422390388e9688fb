"""Finding the classes of a model among the categories of an annotation file, by name.

Ids mean nothing outside their file, so that names alone say which label is which category.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from mmdet_eql.utils.errors import UserError

#: Names that a message lists before it counts the rest.
_SHOWN = 5


def positions_of_classes(classes: Sequence[str], category_names: Sequence[str]) -> np.ndarray:
    """Return the position of each class among the categories, int64; -1 where there is none."""
    position = {name: index for index, name in enumerate(category_names)}
    return np.array([position.get(name, -1) for name in classes], dtype=np.int64)


def check_classes(
    classes: Sequence[str], category_names: Sequence[str], path: str, complete: bool = False
) -> None:
    """Check that classes can be told apart, and that some of them are categories of a file.

    Args:
        classes (Sequence[str]): The classes of the model, in the order of the labels.
        category_names (Sequence[str]): The names in the file.
        path (str): The file, for the message.
        complete (bool): Whether the file must have all of them, as a training set.

    Raises:
        UserError: If a name occurs twice, the names of a class and of a category differ in case,
            spaces, underscores or hyphens only, or categories are missing.
    """
    for names, what in ((category_names, "categories"), (classes, "classes of 'metainfo'")):
        if len(set(names)) < len(names):
            twice = next(name for name in names if list(names).count(name) > 1)
            raise UserError(f"{path}: two {what} are called {twice!r}; names must be unique.")
    missing, others = _difference(classes, category_names)
    spelling = {_plain(name): name for name in others}
    for name in missing:
        if _plain(name) in spelling:
            raise UserError(
                f"{path}: has a category {spelling[_plain(name)]!r}, but the class is called "
                f"{name!r}; give both the same name, letter by letter."
            )
    if missing and complete:
        raise UserError(
            f"{path}: has no category {missing[0]!r}, which 'metainfo.classes' names "
            f"({len(missing)} of {len(classes)} are unknown); correct the names, or leave out "
            "'metainfo.classes' to train on all categories."
        )
    if len(missing) == len(classes):
        raise UserError(
            f"{path}: has none of the classes that the model is trained on ("
            f"{list_names(classes)}), but {list_names(category_names)}; give the file that belongs "
            "to the training set or the checkpoint, or make the names equal."
        )


def difference_of_classes(
    classes: Sequence[str], category_names: Sequence[str], path: str
) -> str | None:
    """Say what is evaluated if a file lacks classes or has other categories; None if neither."""
    missing, others = _difference(classes, category_names)
    if not missing and not others:
        return None
    parts = [f"{path}: evaluating the {len(classes) - len(missing)} classes that it shares with"]
    parts.append(f"the {len(classes)} classes of the model")
    if missing:
        parts.append(f"- it has no category {list_names(missing)}")
    if others:
        parts.append(f"- the model does not know its {list_names(others)}")
    return " ".join(parts) + "."


def list_names(names: Iterable[str]) -> str:
    """Return the first few names in quotes, and how many there are besides."""
    names = list(names)
    text = ", ".join(map(repr, names[:_SHOWN]))
    return f"{text} and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else text


def _difference(
    classes: Sequence[str], category_names: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Classes that are no category, and categories that are no class."""
    ours, theirs = set(classes), set(category_names)
    return [n for n in classes if n not in theirs], [n for n in category_names if n not in ours]


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
