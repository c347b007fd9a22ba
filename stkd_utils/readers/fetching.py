"""Getting the files of data sets: where they live, what is said first, and a download that continues."""

import os
import socket
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from torchvision.datasets.utils import check_integrity
from tqdm import tqdm


class DataError(ValueError):
    """A request for data that cannot be met; the message is one sentence that says what to do."""


class DataNotFound(DataError, FileNotFoundError):
    """The files of a data set are absent and were not, or could not be, fetched."""


class DataDamaged(DataError):
    """A file of a data set fails its checksum."""


def root_folder(root=None):
    """Folder of the data files: ``root``, else $STKD_DATA, else ~/.cache/stkd."""
    return Path(root or os.environ.get("STKD_DATA") or "~/.cache/stkd").expanduser()


def deliver(name, root, megabytes, download):
    """The folder ``root``, into which ``download()`` has put the files of ``name``; says size and time first.

    A server that says nothing for a minute counts as absent. Raises `DataNotFound` when the files cannot be had; what
    ``download`` raises as `DataDamaged` passes.
    """
    minutes = round(megabytes * 8 / 10 / 60)
    time = f"about {minutes} minutes" if minutes > 1 else "a minute or less"
    print(f"Fetching {name} into {root}: {megabytes} MB, {time} at 10 Mbit/s.", flush=True)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(60)  # without one, a silent server holds the download for ever
    try:
        root.mkdir(parents=True, exist_ok=True)
        download()
    except (OSError, RuntimeError, HTTPException) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise DataNotFound(
            f"{name} could not be fetched into {root} ({why}); check the network and the folder, then try again."
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
    return root


def download(url, file, size, md5):
    """``file``, whole: ``size`` bytes with the checksum ``md5`` from ``url``; nothing is sent for when it is there.

    An attempt that is cut off leaves what it got in ``file``.part, and the next one asks for the rest (HTTP Range).
    Raises OSError when the connection ends early or the server has another size, `DataDamaged` for a wrong checksum.
    """
    if file.is_file() and file.stat().st_size == size and check_integrity(file, md5):
        return file
    part = file.with_name(f"{file.name}.part")
    have = part.stat().st_size if part.is_file() else 0
    if have != size:
        _transfer(url, part, have if have < size else 0, size)
    if not check_integrity(part, md5):
        part.unlink()
        raise DataDamaged(f"{url} was fetched, but its checksum is wrong; the file was removed, so try again.")
    os.replace(part, file)
    return file


def _transfer(url, part, have, size):
    """Bring ``part`` from ``have`` bytes to ``size``, or start it anew where the server cannot continue."""
    try:
        answer = urlopen(Request(url, headers={"Range": f"bytes={have}-"} if have else {}))
    except HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # the server has less than is here: of another file
        raise
    with answer:
        start = have if answer.status == HTTPStatus.PARTIAL_CONTENT else 0
        length = answer.headers.get("Content-Length")
        if length is not None and start + int(length) != size:
            part.unlink(missing_ok=True)
            raise OSError(f"the server has {start + int(length):,} bytes where {size:,} belong")
        if start:
            print(f"Continuing after {start / 1e6:.0f} of {size / 1e6:.0f} MB.", flush=True)
        show = {"unit": "B", "unit_scale": True, "disable": None}
        with open(part, "ab" if start else "wb") as out, tqdm(total=size, initial=start, **show) as bar:
            while block := answer.read(2**20):
                out.write(block)
                bar.update(len(block))
    if (have := part.stat().st_size) != size:
        raise ConnectionError(f"the connection ended after {have:,} of {size:,} bytes, which are kept")
