"""Getting files: what is said first, what an interrupted download leaves, and what a wrong file leads to."""

import hashlib
import http.client
import socket

import pytest

from stkd_utils.readers import fetching
from stkd_utils.readers.fetching import DataDamaged, DataNotFound, deliver, download

CONTENT = bytes(range(256)) * 40
MD5 = hashlib.md5(CONTENT).hexdigest()


def fetched(url, tmp_path):
    return download(url, tmp_path / "file.zip", len(CONTENT), MD5)


def part(tmp_path):
    return tmp_path / "file.zip.part"


def test_a_file_is_fetched_once(served, tmp_path):
    url, asked = served(CONTENT)
    for _ in range(2):
        assert fetched(url, tmp_path).read_bytes() == CONTENT
    assert asked == [None] and not part(tmp_path).exists()


def test_a_damaged_file_is_fetched_again(served, tmp_path):
    url, asked = served(CONTENT)
    (tmp_path / "file.zip").write_bytes(CONTENT[:-1] + b"?")
    assert fetched(url, tmp_path).read_bytes() == CONTENT and len(asked) == 1


def test_an_interrupted_download_keeps_what_it_got_and_the_next_one_continues(served, tmp_path, capsys):
    url, _ = served(CONTENT, cut=3000)
    with pytest.raises(ConnectionError, match="ended after 3,000 of 10,240 bytes, which are kept"):
        fetched(url, tmp_path)
    assert part(tmp_path).read_bytes() == CONTENT[:3000] and not (tmp_path / "file.zip").exists()
    url, asked = served(CONTENT)
    assert fetched(url, tmp_path).read_bytes() == CONTENT
    assert asked == ["bytes=3000-"] and "Continuing" in capsys.readouterr().out


def test_a_server_that_cannot_continue_sends_everything_anew(served, tmp_path):
    url, asked = served(CONTENT, ranges=False)
    part(tmp_path).write_bytes(b"other")
    assert fetched(url, tmp_path).read_bytes() == CONTENT and asked == ["bytes=5-"]


def test_a_whole_part_needs_no_network_and_a_longer_one_is_dropped(served, tmp_path):
    part(tmp_path).write_bytes(CONTENT)
    assert fetched("http://127.0.0.1:9/nobody", tmp_path).read_bytes() == CONTENT
    (tmp_path / "file.zip").unlink()
    part(tmp_path).write_bytes(CONTENT + b"more")
    url, asked = served(CONTENT)
    assert fetched(url, tmp_path).read_bytes() == CONTENT and asked == [None]


@pytest.mark.parametrize("content, have", [(CONTENT + b"!", 0), (CONTENT[:-1], 0), (CONTENT + b"!", 7)])
def test_a_file_of_another_size_is_not_even_fetched(served, tmp_path, content, have):
    url, _ = served(content)
    part(tmp_path).write_bytes(CONTENT[:have])
    with pytest.raises(OSError, match=f"the server has {len(content):,} bytes where 10,240 belong"):
        fetched(url, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_longer_than_what_the_server_has_is_dropped(served, tmp_path):
    url, _ = served(CONTENT[:100])
    part(tmp_path).write_bytes(CONTENT[:200])
    with pytest.raises(OSError, match="416"):
        fetched(url, tmp_path)
    assert not part(tmp_path).exists()


def test_a_wrong_checksum_removes_the_file_and_says_so(served, tmp_path):
    url, _ = served(CONTENT[::-1])
    with pytest.raises(DataDamaged, match="checksum is wrong; the file was removed, so try again"):
        fetched(url, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("megabytes, said", [(12, "12 MB, a minute or less"), (248, "248 MB, about 3 minutes")])
def test_size_and_time_are_said_first_and_the_folder_is_made(tmp_path, capsys, megabytes, said):
    seen = []

    def look():
        seen.append((capsys.readouterr().out, (tmp_path / "new").is_dir(), socket.getdefaulttimeout()))

    assert deliver("some", tmp_path / "new", megabytes, look) == tmp_path / "new"
    assert seen == [(f"Fetching some into {tmp_path / 'new'}: {said} at 10 Mbit/s.\n", True, 60)]
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    "error", [OSError("no route"), RuntimeError("Tried a, got:\nno route\n"), http.client.IncompleteRead(b"no route")]
)
def test_what_cannot_be_had_is_one_sentence(tmp_path, error):
    def fails():
        raise error

    with pytest.raises(
        DataNotFound, match="^some could not be fetched into .*; check the network.*try again.$"
    ) as told:
        deliver("some", tmp_path, 1, fails)
    assert "\n" not in str(told.value) and socket.getdefaulttimeout() is None


def test_a_wrong_checksum_is_told_as_it_is(tmp_path):
    def damaged():
        raise fetching.DataDamaged("wrong.")

    with pytest.raises(DataDamaged, match="^wrong.$"):
        deliver("some", tmp_path, 1, damaged)
