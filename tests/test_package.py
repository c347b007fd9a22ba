"""The package as a whole: which way imports go, what it leaves alone, what may lie in the repository."""

import ast
import re
import subprocess
import sys

import pytest

import stkd_utils
from stkd_utils import environment

SOURCES = sorted(environment.PACKAGE.rglob("*.py"))
NAMES = [path.relative_to(environment.PACKAGE).as_posix() for path in SOURCES]
each_source = pytest.mark.parametrize("path", SOURCES, ids=NAMES)

# Who stands above others; every other module is a part, and parts do not look up.
ABOVE = {"training": 1, "profiling": 2, "experiments": 2, "notebooks": 2, "__main__": 3}


def imported(path):
    """(module, name or None) of everything that a file imports, also within its functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (("." * node.level + (node.module or ""), alias.name) for alias in node.names)


def own(path):
    """Names of the rooms of this package that a file imports from."""
    within = path.parent.relative_to(environment.PACKAGE).parts
    for module, name in imported(path):
        dots = len(module) - len(module.lstrip("."))
        if dots == len(within) + 1 or module.split(".")[0] == "stkd_utils":
            rest = [part for part in module.removeprefix("stkd_utils").split(".") if part]
            yield rest[0] if rest else name


def test_the_map_of_the_package_names_every_room():
    rooms = {name.split("/")[0].removesuffix(".py") for name in NAMES} - {"__init__", "_ledger"}
    said = re.findall(r"`+(\w+)`+", stkd_utils.__doc__)
    assert sorted(said) == sorted(rooms)


@each_source
def test_imports_go_downwards(path):
    room = path.relative_to(environment.PACKAGE).parts[0].removesuffix(".py")
    height = ABOVE.get(room, 0)
    for other in set(own(path)) - {room}:
        assert ABOVE.get(other, 0) < height or other not in ABOVE, f"{room} imports {other}, which stands above it"


@each_source
def test_public_names_are_explained(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
    assert [node.name for node in named if not ast.get_docstring(node)] == []
    assert ast.get_docstring(tree)


@each_source
def test_trap_C1_nothing_private_of_another_package_is_imported(path):
    foreign = [(module, name) for module, name in imported(path) if module[0] != "." and "stkd_utils" not in module]
    for module, name in foreign:
        assert not any(part.startswith("_") for part in [*module.split("."), name or ""]), f"{module}.{name} is private"


@each_source
def test_trap_S24_warnings_stay_on(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)]
    assert not {node.attr for node in calls} & {"filterwarnings", "simplefilter"}


def test_trap_S26_the_repository_holds_sources_only(root):
    done = subprocess.run(["git", "ls-files", "-s"], cwd=root, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is not a git checkout")
    files = [line.split("\t")[1] for line in done.stdout.splitlines()]
    assert {"LICENSE", "README.md", "CITATION.cff"} <= set(files)
    unwanted = (".pyc", ".pt", ".pth", ".bak", ".orig", ".log", "~")
    assert [name for name in files if name.endswith(unwanted)] == []
    assert [name for name in files if name.startswith(("_build/", "runs/", ".venv/"))] == []


def test_a_training_loads_no_plotting_library(root):
    code = "import sys, stkd_utils.experiments; print(*{'matplotlib', 'seaborn', 'scipy.stats'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_digest_of_the_code_is_of_what_makes_results(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "PACKAGE", tmp_path)
    (tmp_path / "experiments" / "digits").mkdir(parents=True)
    (tmp_path / "losses.py").write_text("one")
    before = environment.code_digest()
    (tmp_path / "experiments" / "digits" / "new.json").write_text("{}")  # its settings are in the record of its runs
    (tmp_path / "plots.py").write_text("a look")
    assert environment.code_digest() == before
    (tmp_path / "losses.py").write_text("other")
    assert environment.code_digest() != before
