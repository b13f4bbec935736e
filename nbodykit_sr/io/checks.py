"""Checks of BigFile headers, sizes and checksums before the library, which trusts them, opens it."""

import hashlib
import logging
import os
import re
from dataclasses import dataclass

import numpy as np

from ..errors import InputError, agreement, one_line

logger = logging.getLogger(__name__)

# File of a finished output with a CRC-32 of every chunk; its own SHA-256 is SRChecksums
CHECKSUMS = "checksums"

# Far above any real block's header: a header that is longer is not one
_LONGEST_HEADER = 2**24
_DTYPE = re.compile(r"[<>=|]?(f4|f8|i4|i8|u4|u8|i1|u1|i2|u2|S1|a1|b1|c8|c16)")

# An attribute may be of any type of numpy's but objects: texts of any length, times, plain bytes
_ATTRIBUTE = re.compile(r"[<>=|]?([abcfiuSV][1-9]\d{0,4}|[mM]8(\[\w{1,4}\])?)")
# What comes before a value as people read it, and the bytes up to which it is given
_HUMANE, _SHOWN = "#HUMANE", 128

# Bytes read at a time for a checksum
_PIECE = 2**24


@dataclass(frozen=True)
class BlockHeader:
    """Contents of a block's header."""

    folder: str
    dtype: str
    members: int  # numbers in a row
    rows: tuple  # in each physical file
    sums: tuple  # of the bytes of each physical file, modulo 2^32

    @property
    def checksums(self) -> list[tuple[str, int, int]]:
        """(path, bytes, byte sum) of each physical file."""
        sizes = [rows * self.width for rows in self.rows]
        return [(self.file(n), size, self.sums[n]) for n, size in enumerate(sizes)]

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return self.members * int(re.sub(r"\D", "", self.dtype))

    def file(self, number) -> str:
        """Path of a physical file."""
        return os.path.join(self.folder, f"{number:06X}")

    @classmethod
    def read(cls, folder) -> "BlockHeader":
        """Parse a header strictly; raises InputError."""
        path = os.path.join(folder, "header")
        fields: dict[str, str] = {}
        rows: list[int] = []
        sums: list[int] = []
        for line in _lines(path):
            if (match := re.fullmatch(r"(DTYPE|NMEMB|NFILE):\s*(\S{1,16})\s*", line)) and not rows:
                fields[match[1]] = match[2]
            elif match := re.fullmatch(
                r"([0-9A-F]{6}):\s*(\d{1,18})\s*:\s*(\d{1,10})\s*:\s*\d{1,10}\s*", line
            ):
                if int(match[1], 16) != len(rows):
                    raise InputError(f"{path} lists file {match[1]} out of order: it is damaged")
                rows.append(int(match[2]))
                sums.append(int(match[3]))
            else:
                raise InputError(f"{path} has the line {line[:60]!r}: it is damaged")
        if list(fields) != ["DTYPE", "NMEMB", "NFILE"]:
            raise InputError(f"{path} does not say DTYPE, NMEMB and NFILE in turn: it is damaged")
        for name in ("NMEMB", "NFILE"):
            if not re.fullmatch(r"[0-9]{1,9}", fields[name]):
                raise InputError(f"{path} lacks a sound {name}: it is damaged")
        if int(fields["NFILE"]) != len(rows):
            raise InputError(
                f"{path} lists {len(rows)} files but NFILE is {fields['NFILE']}: it is damaged"
            )
        if not _DTYPE.fullmatch(fields["DTYPE"]):
            raise InputError(
                f"block {folder} has DTYPE {fields['DTYPE']!r}: a plain numeric type is needed"
            )
        return cls(folder, fields["DTYPE"], int(fields["NMEMB"]), tuple(rows), tuple(sums))


def check_block(folder, members=1) -> BlockHeader:
    """Check that a block's header makes sense, with so many numbers a row, and that its files are as long."""
    header = BlockHeader.read(folder)
    name, kind = os.path.basename(folder), header.dtype.lstrip("<>=|")[0]
    if header.members != members:
        raise InputError(
            f"block {folder} has NMEMB {header.members}: {name} needs {members} a row; the header is damaged"
        )
    if name in ("Position", "Velocity") and kind != "f":
        raise InputError(
            f"block {folder} has DTYPE {header.dtype!r}: {name} needs floating-point numbers"
        )
    if name == "ID" and kind not in "iu":
        raise InputError(f"block {folder} has DTYPE {header.dtype!r}: {name} needs integers")
    for number, rows in enumerate(header.rows):
        file = header.file(number)
        try:
            length = os.path.getsize(file)
        except OSError:
            raise InputError(
                f"block {folder} lacks its file {number:06X}: it is truncated"
            ) from None
        if length != rows * header.width:
            raise InputError(
                f"file {file} has {length} bytes, its header says {rows * header.width}: it is truncated or "
                "damaged"
            )
    attributes(folder)
    return header


def attributes(folder) -> dict:
    """The attributes of a block, as the library would give them but with nothing trusted.

    Returns
    -------
    dict
        Name to an array; to a str where a text was written, by Python as it is or as one of
        numpy's. Characters one by one, as MP-Gadget writes texts, stay an array.

    Raises
    ------
    InputError
        If a line does not fit its type and length, or the folder has attributes in
        the old binary form, of which the library believes every length.
    """
    if os.path.exists(os.path.join(folder, "attr")):
        raise InputError(f"block {folder} has attributes of an old form: write it anew by bigfile")
    path = os.path.join(folder, "attr-v2")
    found: dict = {}
    if not os.path.exists(path):
        return found
    for line in _lines(path, "latin-1"):
        match = re.match(rf"([^ \t]+) (\S+) (\d{{1,9}}) ([0-9A-Fa-f]*)( {_HUMANE}|$)", line)
        dtype = _attribute_dtype(match[2]) if match else None
        if match is None or dtype is None:
            raise InputError(f"{path} has the line {line[:60]!r}: it is damaged")
        name = match[1].encode("latin-1").decode("utf-8", "replace")
        if len(match[4]) != 2 * dtype.itemsize * int(match[3]):
            raise InputError(f"{path}: attribute {name[:40]} is cut short: it is damaged")
        if name in found:
            raise InputError(f"{path} has {name[:40]} twice: it is damaged")
        content = bytes.fromhex(match[4])
        values = np.frombuffer(content, dtype)
        if "a" in match[2] or (dtype.kind == "S" and len(values) == 1):
            found[name] = content.decode("utf-8", "replace").rstrip("\0")
        elif dtype.kind == "S" and dtype.itemsize > 1:
            found[name] = np.array([one.decode("utf-8", "replace") for one in values])
        else:
            found[name] = values
    return found


def _attribute_dtype(text):
    """The numpy type that the library calls by this name, or None."""
    if not _ATTRIBUTE.fullmatch(text):
        return None
    try:
        return np.dtype(text.replace("a", "S"))  # a text that Python wrote, character by character
    except TypeError:
        return None


def attributes_text(attrs) -> str:
    """Attributes as the library writes them, in the order of their names.

    Empty ones are left out: the library writes them, and can open the block no more.

    Parameters
    ----------
    attrs : dict
        Name to a str, or to numbers or texts of numpy's.
    """
    text = ""
    for name, value in sorted(attrs.items()):
        if isinstance(value, str):
            values, dtype = np.frombuffer(value.encode() or b"\0", "S1"), "<a1"
        else:
            values = np.ravel(value)
            values = np.char.encode(values, "utf-8") if values.dtype.kind == "U" else values
            dtype = values.dtype.str.replace("|", "<")
        if not _ATTRIBUTE.fullmatch(dtype):
            raise TypeError(f"attribute {name} is of type {dtype}")
        content = values.tobytes()
        shown = "..."
        if len(content) <= _SHOWN and values.dtype.kind == "S":
            shown = content.partition(b"\n")[0].decode("utf-8", "replace").replace("\0", "")
        elif len(content) <= _SHOWN:
            shown = " ".join(map(str, values.tolist()))
        if len(values):
            line = f"{name} {dtype} {len(values)} {content.hex().upper()}"
            text += f"{line} {_HUMANE} [ {shown} ]\n"
    return text


def header_text(dtype, rows, sums) -> str:
    """A block's header as the library writes it, from rows and byte sums of each physical file."""
    members = dtype.shape[0] if dtype.shape else 1
    text = f"DTYPE: {dtype.base.str}\nNMEMB: {members}\nNFILE: {len(rows)}\n"
    for number, (n, total) in enumerate(zip(rows, sums, strict=True)):
        total = int(total) % 2**32
        folded = (total & 0xFFFF) + (total >> 16)
        folded = (folded & 0xFFFF) + (folded >> 16)
        text += f"{number:06X}: {n} : {total} : {folded}\n"
    return text


def byte_sum(values) -> int:
    """Sum of the bytes of an array, modulo 2^32: BigFile's checksum."""
    return int(np.ascontiguousarray(values).view("u1").sum(dtype="u4"))


def file_sum(path, first, last) -> int:
    """Sum of the bytes of a file from byte `first` up to `last`, modulo 2^32."""
    total = 0
    with open(path, "rb") as file:
        file.seek(first)
        while first < last:
            piece = file.read(min(_PIECE, last - first))
            if not piece:
                raise OSError(f"{path} ends early")
            total += byte_sum(np.frombuffer(piece, "u1"))
            first += len(piece)
    return total % 2**32


def check_sums(files, comm, force=None) -> None:
    """Compare bytes with the checksums that headers keep of them. Collective.

    Parameters
    ----------
    files : list of (path, bytes, byte sum)
        The same on all ranks, which share each file.
    force : bool, optional
        Warn, instead of raising. None: the command has no such option.

    Raises
    ------
    InputError
        On every rank: the file that was damaged or changed.
    """
    sums = np.zeros(len(files), "u8")
    with agreement(comm):
        for i, (path, size, _) in enumerate(files):
            first, last = (size * (comm.rank + n) // comm.size for n in (0, 1))
            try:
                sums[i] = file_sum(path, first, last)
            except OSError as error:
                raise InputError(f"{path} is unreadable: {error}") from None
    for (path, _, wanted), total in zip(files, comm.allreduce(sums) % 2**32):
        if total != wanted:
            problem = (
                f"{path} has checksum {total} but its header says {wanted}: it was damaged or changed "
                "after it was written; copy it again"
            )
            if not force:
                hint = "" if force is None else "; --force goes on all the same"
                raise InputError(problem + hint)
            if comm.rank == 0:
                logger.warning("%s: going on as forced", problem)


def read_checksums(folder, names, digest) -> list[tuple[int, int, dict[str, int]]]:
    """Checksums of the pieces of a finished output: (first row, rows, {block: CRC-32}) of each.

    InputError if the file `CHECKSUMS` has another SHA-256 than `digest`, or other blocks than `names`.
    """
    path = os.path.join(folder, CHECKSUMS)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise InputError(f"{path} is unreadable: {error}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise InputError(
            f"{path} is not what the header's SRChecksums says: it was damaged or changed"
        )
    first, *lines = content.decode().splitlines()
    columns = first.rpartition(" in ")[2].split()
    pieces = []
    for line in lines:
        start, rows, *crcs = line.split()
        pieces.append((int(start), int(rows), dict(zip(columns, (int(c, 16) for c in crcs)))))
    if set(columns) != set(names):
        raise InputError(f"{path} is of the columns {sorted(columns)}, {sorted(names)} are there")
    return pieces


def _lines(path, encoding="ascii"):
    """Lines of a text file that came from elsewhere."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(f"{path} is no file: it is damaged")  # a pipe would be waited for
        if os.path.getsize(path) > _LONGEST_HEADER:
            raise InputError(f"{path} is longer than any header: it is damaged")
        with open(path, encoding=encoding, newline="\n") as file:
            # lines of blanks stay, to be refused: the library writes past their end
            return [line for line in file.read().split("\n") if line]
    except (OSError, UnicodeDecodeError) as error:
        line = one_line(error, 120)
        raise InputError(f"{path} is unreadable: {line}") from None
