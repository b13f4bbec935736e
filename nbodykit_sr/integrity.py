"""Checks of a BigFile block before the library, which trusts its files, opens it."""

import os
import re

from .errors import InputError

# Far above any real block's header: a header that is longer is not one
_LONGEST_HEADER = 2**24
_DTYPE = re.compile(r"[<>=|]?(f4|f8|i4|i8|u4|u8|i1|u1|i2|u2|S1|a1|b1|c8|c16)")


def check_block(folder, data=True, vector=False):
    """Check that a block's header makes sense and that its files are as long as it says.

    Parameters
    ----------
    folder : str
        The block's folder.
    data : bool
        The block holds data, not only attributes.
    vector : bool
        It must have three members a row; otherwise one.

    Returns
    -------
    int
        Rows of the block.

    Raises
    ------
    InputError
    """
    fields, sizes = _parse(folder)
    name = os.path.basename(folder)
    if not data:
        _check_attributes(folder)
        return 0
    dtype, members = fields["DTYPE"], int(fields["NMEMB"])
    if not _DTYPE.fullmatch(dtype):
        raise InputError(f"block {folder} has DTYPE {dtype!r}: a plain numeric type is needed")
    if members != (3 if vector else 1):
        raise InputError(
            f"block {folder} has NMEMB {members}: {name} needs {3 if vector else 1} a row; the header is "
            "damaged"
        )
    if name in ("Position", "Velocity") and dtype.lstrip("<>=|")[0] != "f":
        raise InputError(f"block {folder} has DTYPE {dtype!r}: {name} needs floating-point numbers")
    if name == "ID" and dtype.lstrip("<>=|")[0] not in "iu":
        raise InputError(f"block {folder} has DTYPE {dtype!r}: {name} needs integers")
    width = members * int(re.search(r"\d+$", dtype).group())
    for index, rows in enumerate(sizes):
        file = os.path.join(folder, f"{index:06X}")
        try:
            length = os.path.getsize(file)
        except OSError:
            raise InputError(
                f"block {folder} lacks its file {index:06X}: it is truncated"
            ) from None
        if length != rows * width:
            raise InputError(
                f"file {file} has {length} bytes, its header says {rows * width}: it is truncated or damaged"
            )
    _check_attributes(folder)
    return sum(sizes)


def _parse(folder):
    path = os.path.join(folder, "header")
    try:
        if os.path.getsize(path) > _LONGEST_HEADER:
            raise InputError(f"{path} is no BigFile header: it is damaged")
        with open(path, encoding="ascii") as file:
            lines = file.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"block {folder} has no readable header: {error}") from None
    fields, sizes = {}, []
    for line in lines:
        if not line.strip():
            continue
        if match := re.fullmatch(r"(DTYPE|NMEMB|NFILE):\s*(\S+)\s*", line):
            fields[match[1]] = match[2]
        elif match := re.fullmatch(
            r"([0-9A-Fa-f]{6}):\s*(\d{1,18})\s*:\s*\d{1,12}\s*(:\s*\d{1,12}\s*)?", line
        ):
            if int(match[1], 16) != len(sizes):
                raise InputError(f"{path} lists file {match[1]} out of order: it is damaged")
            sizes.append(int(match[2]))
        else:
            raise InputError(f"{path} has the line {line[:60]!r}: it is damaged")
    if set(fields) != {"DTYPE", "NMEMB", "NFILE"} or not re.fullmatch(r"\d{1,9}", fields["NMEMB"]):
        raise InputError(f"{path} lacks DTYPE, NMEMB or NFILE: it is damaged")
    if not re.fullmatch(r"\d{1,9}", fields["NFILE"]) or int(fields["NFILE"]) != len(sizes):
        raise InputError(
            f"{path} lists {len(sizes)} files but NFILE is {fields['NFILE']}: it is damaged"
        )
    return fields, sizes


def _check_attributes(folder):
    """Every line of attr-v2 must hold as many bytes as its type and length say."""
    path = os.path.join(folder, "attr-v2")
    if not os.path.exists(path):
        return
    if os.path.getsize(path) > _LONGEST_HEADER:
        raise InputError(f"{path} is no list of attributes: it is damaged")
    with open(path, encoding="latin-1", newline="\n") as file:
        for line in file.read().split("\n"):
            if not line.strip():
                continue
            match = re.match(r"(\S+) (\S+) (\d{1,9}) ([0-9A-Fa-f]*)( #HUMANE|$)", line)
            if not match or not _DTYPE.fullmatch(match[2]):
                raise InputError(f"{path} has the line {line[:60]!r}: it is damaged")
            itemsize = int(re.search(r"\d+$", match[2]).group())
            if len(match[4]) != 2 * itemsize * int(match[3]):
                raise InputError(f"{path}: attribute {match[1][:40]} is cut short: it is damaged")
