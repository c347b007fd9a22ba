"""A chapter on a machine without a network: every connection beyond this machine is refused while it executes."""

import os
import subprocess
import sys

import nbformat
import pytest

from stkd_utils import notebooks

CUT_OFF = '''
import socket

connect = socket.socket.connect


def local_only(self, address):
    """Refuse and note down whatever leaves this machine."""
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
        open({log!r}, "a").write(f"{{address}}\\n")
        raise OSError("the network is cut off")
    return connect(self, address)


def no_names(host, *arguments, **options):
    open({log!r}, "a").write(f"name of {{host}}\\n")
    raise socket.gaierror("the network is cut off")


socket.socket.connect = local_only
names = socket.getaddrinfo
near = (None, "127.0.0.1", "localhost")
socket.getaddrinfo = lambda host, *a, **o: names(host, *a, **o) if host in near else no_names(host)
'''


@pytest.mark.parametrize("chapter", ["01", "04"])
def test_a_chapter_executes_with_the_network_cut_off(root, tmp_path, monkeypatch, chapter):
    log = tmp_path / "asked.log"
    (tmp_path / "sitecustomize.py").write_text(CUT_OFF.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(root), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path / "ledger"))  # an empty one: what was not run must say so
    report = notebooks.execute("smoke", only=chapter, root=root, out=tmp_path / "out")
    assert [row["status"] for row in report.notebooks if row["name"].startswith(chapter)] == ["executed"]
    assert not log.exists(), f"asked for the network: {log.read_text()}"
    path = next((tmp_path / "out" / "executed" / "smoke").glob(f"{chapter}*.ipynb"))
    cells = nbformat.read(path, as_version=4).cells
    said = {"01": "no run with exactly these settings", "04": "no grid yet"}[chapter]
    assert said in str([cell.outputs for cell in cells if cell.cell_type == "code"])


def test_the_cut_really_cuts(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(CUT_OFF.format(log=str(tmp_path / "asked.log")))
    code = "import socket; socket.create_connection(('example.org', 80), timeout=2)"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(tmp_path)}, text=True,
                          capture_output=True)  # fmt: skip
    assert "cut off" in done.stderr and (tmp_path / "asked.log").read_text() == "name of example.org\n"
