"""Fixtures of all tests. What is specific to one file lives in that file."""

import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock

from stkd_utils.detection import scenes
from stkd_utils.experiments import together

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root():
    """The folder of the checkout."""
    return ROOT


@pytest.fixture(scope="module")
def on_cpu():
    """Runs are trained on the CPU even where there is a GPU, on which equal runs are not equal to the last bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "default_device", lambda: "cpu")
        yield


@pytest.fixture(scope="session")
def few_scenes(tmp_path_factory):
    """A data folder with few digit scenes, enough for the smoke profile, which everybody takes for the usual ones."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "write", partial(scenes.write, counts={"train": 120, "val": 20, "test": 8}))
        scenes.ensure(folder)
    return folder


@pytest.fixture(scope="module")
def scenes_data(few_scenes):
    """$STKD_DATA is the folder of `few_scenes`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STKD_DATA", str(few_scenes))
        yield few_scenes


@pytest.fixture(scope="session")
def html(tmp_path_factory):
    """Folder of the built pages: what `make book` left when that is up to date, else a book of the smoke profile."""
    import build

    own = ROOT / "_build" / "html"
    if build.is_current(own):
        return own
    (ROOT / "_build").mkdir(exist_ok=True)
    with FileLock(ROOT / "_build" / "tests.lock"):  # tests may run in several processes: the first one executes
        subprocess.run([sys.executable, "-m", "stkd_utils", "notebooks", "--profile", "smoke"], cwd=ROOT, check=True)
    return build.build("smoke", into=tmp_path_factory.mktemp("book"))


@pytest.fixture
def served():
    """``served(content, ranges=True, cut=None)`` -> (url, list that fills with the Range of each request, or None).

    A server on this machine that knows Range unless ``ranges`` is False, and hangs up after ``cut`` bytes of an answer.
    """
    servers = []

    def serve(content, *, ranges=True, cut=None):
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                asked.append(wanted)
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and ranges else 0
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start:][:cut])

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/file.zip", asked

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
