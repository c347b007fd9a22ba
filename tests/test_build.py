"""When the book is built again: whenever something that its pages are made of has changed."""

import build

from stkd_utils import environment


def test_a_change_of_a_notebook_or_of_a_package_calls_for_another_book(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    for name in ("_config.yml", "_toc.yml", "notebooks/01_new.ipynb"):
        (tmp_path / name).write_text("before")
    first = build.digest("smoke")
    (tmp_path / "notebooks" / "01_new.ipynb").write_text("after")
    second = build.digest("smoke")
    monkeypatch.setattr(environment, "packages", lambda: {"torch": "99"})
    assert len({first, second, build.digest("smoke")}) == 3


def test_a_ledger_elsewhere_and_a_row_of_it_call_for_another_book(monkeypatch, tmp_path):
    seen = {build.digest("smoke")}
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    for rows in ("{}", "{} "):
        (tmp_path / "runs.jsonl").write_text(rows)
        seen.add(build.digest("smoke"))
    assert len(seen) == 3


def test_a_folder_beside_the_executed_notebooks_is_no_page(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "_executed", lambda profile: tmp_path)
    before = build.digest("smoke")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert build.digest("smoke") == before
