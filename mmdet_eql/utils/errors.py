"""Errors that a user can correct, and how the command-line tools print them and warnings."""

import errno
import functools
import os
import sys
import warnings
from collections.abc import Callable

#: ``errno`` of an OSError when no more can be written.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
#: Characters of a sentence; the middle of longer ones is left out.
_LONGEST = 1500


class UserError(Exception):
    """Bad input. The message is one sentence: what is wrong, in which file and field, what to do.

    Args:
        sentence (str): What is wrong and what to do about it.
        message (str, optional): A traceback that ends in the sentence. PyTorch gives it when the
            error comes from a DataLoader worker.
    """

    #: PyTorch passes the keyword ``message`` to types that have a true attribute of that name.
    message = "see the class docstring"

    def __init__(self, sentence: str = "", message: str | None = None) -> None:
        if message is not None:
            marker = f"{type(self).__module__}.{type(self).__qualname__}: "
            sentence = message.rpartition(marker)[2].strip()
        if len(sentence) > _LONGEST:
            # It quotes a file, whose fields may be of any length.
            sentence = f"{sentence[: _LONGEST // 2]} ... {sentence[-_LONGEST // 2 :]}"
        super().__init__(sentence)


def exit_on_user_error(main: Callable[[], None]) -> Callable[[], None]:
    """Make a tool's ``main`` print a :class:`UserError` as one line and exit with status 2.

    So does a full disk. Ctrl-C ends it quietly with status 130. Any other exception is a bug and
    keeps its traceback.
    """

    @functools.wraps(main)
    def guarded() -> None:
        try:
            main()
        except UserError as error:
            _exit_with(error)
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            _exit_with(
                f"{error.filename or 'writing'}: {error.strerror}; free some space and, if this "
                "was a training, go on from its last checkpoint with --resume."
            )
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr, flush=True)
            sys.exit(130)

    return guarded


def print_warnings_as_sentences() -> None:
    """Make a tool print a warning as one line for its user, without a place in the code."""
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)


def _exit_with(error: UserError | str) -> None:
    rank = os.environ.get("RANK")
    where = f" (rank {rank})" if rank not in (None, "0") else ""
    print(f"error{where}: {error}", file=sys.stderr, flush=True)
    sys.exit(2)
