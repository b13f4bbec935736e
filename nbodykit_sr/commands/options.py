"""Options of a command: a dataclass whose fields hold their help, the parser made from it, and its
command line.

    @dataclass(frozen=True)
    class HalosOptions:
        input: str = option("input", "catalogue or snapshot")
        output: str = option("output", "folder of the halos")
        nmin: int = option("halos", "the fewest particles of a halo (32)", 32)

A field without a default is a positional argument; one of type bool is a flag; one of several values
(``nargs``, ``action``) is a tuple.
"""

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import MISSING, field, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .command import Parser

Options = TypeVar("Options")


def option(group, help, default=MISSING, *, repeated=True, path=False, written=str, **words) -> Any:
    """A field of a dataclass of options.

    Parameters
    ----------
    group : str
        Heading in the help under which it stands.
    help : str
        Help text.
    default : object, optional
    repeated : bool
        Whether the option is part of the command that makes the output again.
    path : bool
        The value may be the name of a file.
    written : callable
        Gives the text of a value on the command line.
    **words
        Arguments of `argparse.ArgumentParser.add_argument`; the type follows from the annotation.
    """
    metadata = {"group": group, "help": help, "words": words}
    metadata |= {"repeated": repeated, "path": path, "written": written}
    return field(default=default, metadata=metadata)


def parse_options(kind: type[Options], argv: Sequence[str], name, what, example) -> Options:
    """Options, a dataclass of this kind, from the command line; InputError if they cannot be understood.

    `name`, `what` and `example` are those of `Parser`.
    """
    parser = Parser(name, what, example)
    types, groups = get_type_hints(kind), {}
    for one in fields(kind):  # type: ignore[arg-type]  # a dataclass
        about = one.metadata
        if about["group"] not in groups:
            groups[about["group"]] = parser.group(about["group"])
        words = {"help": about["help"], **_reading(types[one.name], about["words"])}
        if one.default is MISSING:
            groups[about["group"]](one.name, **words)
        else:  # which stands in the dataclass alone
            groups[about["group"]](_flag(one), default=argparse.SUPPRESS, **words)
    given = vars(parser.parse_args(argv))
    return kind(**{name: _frozen(value) for name, value in given.items()})


def _reading(hint, words):
    """Arguments of `add_argument` for a field of this annotation."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    hint = kinds[0] if get_origin(hint) is UnionType else hint
    if hint is bool:
        return {"action": "store_true", **words}
    return {"type": hint, **words} if hint in (int, float) else words


def _frozen(value):
    """Lists of argparse as tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _flag(one):
    return f"--{one.name.replace('_', '-')}"


def command_line(options, program) -> str:
    """The command that makes an output again, such as "python -m nbodykit_sr halos" with its options.

    Inputs are named by absolute paths and the output OUTPUT; defaults are left out.
    """
    words = program.split()
    for one in fields(options):
        value, about = getattr(options, one.name), one.metadata
        if one.default is MISSING:
            several = value if isinstance(value, tuple) else (value,)
            paths = [os.path.abspath(str(path)) for path in several]
            words += ["OUTPUT"] if one.name == "output" else paths
        elif about["repeated"] and value != one.default:
            if about["path"] and os.path.exists(value):
                value = os.path.abspath(value)
            written = about["written"](value)
            words.append(_flag(one) if value is True else f"{_flag(one)}={written}")
    return shlex.join(words)
