"""What the tools share: parsers, whose options come before the slow imports, and their start."""

import argparse
import contextlib
import warnings
from collections.abc import Callable
from typing import Any


class Options(argparse.Action):
    """mmengine's ``DictAction``, imported when the option is there."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        from mmengine.config import DictAction

        DictAction(self.option_strings, self.dest)(parser, *args, **kwargs)


def tool_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser whose help shows a description as it is written."""
    layout = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, formatter_class=layout)


def positive(text: str) -> int:
    """The type of an option that is a whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def add_cfg_options(
    parser: argparse.ArgumentParser,
    text: str = 'override keys of the config, with dots for nested keys; lists as KEY="[A,B]"',
) -> None:
    """Add ``--cfg-options``, with this help."""
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE", help=text)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that train.py and test.py share, as in MMDetection."""
    parser.add_argument("--work-dir", help="folder for logs, checkpoints and results")
    add_cfg_options(parser)
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what started the processes of a distributed job",
    )
    # torchrun's predecessor passes the rank as an option, with either spelling.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def run_tool(tool: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Import mmdet, without its output about optional packages, then run a tool with its arguments.

    A UserError ends it with one sentence.
    """
    with contextlib.redirect_stdout(None), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mmdet.evaluation  # noqa: F401
    from mmdet_eql.utils.errors import exit_on_user_error

    exit_on_user_error(lambda: tool(args))()
