"""The house: which folder may import which, what ships, what an import costs, what never gets into a commit."""

import ast
import graphlib
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

import cryozoo

ROOT = Path(__file__).parents[1]

# Folder -> the folders of ours that it may import. An import of the root's version is always allowed.
FLOORS: dict[str, set[str]] = {
    "geometry": set(),
    "particles": {"geometry"},
    "recovery": {"geometry"},
    "models": {"geometry"},
    "heads": {"geometry"},
    "imaging": {"geometry", "particles"},
    "losses": {"geometry", "particles", "models", "heads", "imaging"},
    "weights": set(),
    "zoo": {"geometry", "particles", "recovery", "models", "heads", "imaging", "losses", "weights"},
}
FLOORS["training"] = FLOORS["zoo"] | {"zoo"}
FLOORS["benchmarks"] = FLOORS["training"] | {"training"}
FLOORS["cli"] = FLOORS["benchmarks"] | {"benchmarks"}
# the roof: __init__.py, which re-exports from where things are, __main__.py and testing.py
FLOORS[""] = FLOORS["cli"] | {"cli"}

# Distributions whose import name is another one.
IMPORT_NAMES = {"huggingface-hub": "huggingface_hub", "pyyaml": "yaml", "lie-learn": "lie_learn"}


def tracked() -> list[str]:
    """Paths of the files under version control, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what is tracked is unknown")
    # A checkout that belongs to somebody else is fine to list.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [path for path in listed.split("\0") if path and (ROOT / path).is_file()]


def modules() -> list[str]:
    """Paths of the package's modules on disk, relative to the root."""
    below = (path for folder in FLOORS if folder for path in (ROOT / folder).rglob("*.py"))
    return sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.py"), *below])


def imports(path: str, source: str) -> Iterator[tuple[str, bool]]:
    """Absolute names that a module of the package imports, and whether it does so while it is itself imported."""
    package = ["cryozoo", *PurePosixPath(path).parts[:-1]]
    tree = ast.parse(source)
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, node.module] if node.module else base
            yield from ((".".join([*base, alias.name]), id(node) not in lazy) for alias in node.names)


def wrong_arrows(path: str, source: str) -> list[str]:
    """Imports of ours that the floor of the module at ``path`` does not allow."""
    floor = path.split("/")[0] if "/" in path else ""
    ours = [name.split(".") for name, _ in imports(path, source) if name.split(".")[0] == "cryozoo"]
    allowed = FLOORS[floor] | {floor, "__version__"}
    return [".".join(name) for name in ours if len(name) == 1 or name[1] not in allowed]


@pytest.mark.parametrize("path", modules())
def test_arrows_go_down(path):
    assert wrong_arrows(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("geometry/a.py", "from ..zoo import registry", ["cryozoo.zoo.registry"]),
        ("geometry/a.py", "def f():\n    from ..particles.mrc import MrcStack", ["cryozoo.particles.mrc.MrcStack"]),
        ("models/a.py", "from .. import heads", ["cryozoo.heads"]),
        ("heads/a.py", "import cryozoo.losses.base", ["cryozoo.losses.base"]),
        ("heads/a.py", "import cryozoo", ["cryozoo"]),
        ("benchmarks/deep/a.py", "from ...zoo import train\nfrom ..tasks import toy", []),
        ("losses/a.py", "from .. import __version__\nfrom ..heads.base import Pose\nfrom . import b", []),
        ("testing.py", "from .heads.base import Head\nfrom .tests import conftest", ["cryozoo.tests.conftest"]),
    ],
)
def test_an_arrow_upwards_is_seen(path, source, wrong):
    assert wrong_arrows(path, source) == wrong


def circle(sources: dict[str, str]) -> list[str]:
    """Modules by name of which each imports the one before, the first being the last too; empty where there are none.

    It does not matter when or what for something is imported.
    """
    names = {".".join(["cryozoo", *PurePosixPath(path).with_suffix("").parts]): path for path in sources}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}

    def module(name: str) -> str | None:
        while name and name not in names:
            name = name.rpartition(".")[0]
        return names.get(name)

    graph = {
        path: {module(name) for name, _ in imports(path, source) if name != "cryozoo.__version__"} - {None}
        for path, source in sources.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_modules_import_each_other():
    assert circle({path: (ROOT / path).read_text() for path in modules()}) == []


@pytest.mark.parametrize(
    ("sources", "members"),
    [
        ({"zoo/a.py": "from . import b", "zoo/b.py": "from .c import x", "zoo/c.py": "import torch"}, set()),
        ({"zoo/a.py": "from . import b", "zoo/b.py": "from .a import x"}, {"zoo/a.py", "zoo/b.py"}),
        (
            {
                "zoo/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import x",
                "zoo/b.py": "def f():\n    from ..heads.c import x",
                "heads/c.py": "import cryozoo.zoo.a",
            },
            {"zoo/a.py", "zoo/b.py", "heads/c.py"},
        ),
        ({"zoo/a.py": "from .. import zoo", "zoo/__init__.py": "from .a import x"}, {"zoo/a.py", "zoo/__init__.py"}),
        ({"__init__.py": "from .zoo.a import x", "zoo/a.py": "from .. import __version__"}, set()),
    ],
)
def test_a_circle_is_seen(sources, members):
    assert set(circle(sources)) == members


def underscored(path: str, source: str) -> list[str]:
    """Imports of what another folder of ours keeps to itself."""
    ours = [name.split(".") for name, _ in imports(path, source) if name.startswith("cryozoo.")]
    private = [name for name in ours if any(re.match(r"_(?!_)", part) for part in name)]
    return [".".join(name) for name in private if name[1] != path.split("/")[0]]


@pytest.mark.parametrize("path", modules())
def test_nothing_underscored_is_imported_across_folders(path):
    assert underscored(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("zoo/a.py", "from ..heads.base import _f", ["cryozoo.heads.base._f"]),
        ("zoo/a.py", "def f():\n    from ..heads._base import Head", ["cryozoo.heads._base.Head"]),
        ("__main__.py", "from .cli._x import main", ["cryozoo.cli._x.main"]),
        ("zoo/deep/a.py", "from .._b import _c\nfrom ... import __version__\nfrom torch._x import y", []),
    ],
)
def test_an_underscored_import_is_seen(path, source, found):
    assert underscored(path, source) == found


def distributions(requirements: list[str]) -> set[str]:
    """Import names of a list of requirements."""
    names = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requirements}
    return {IMPORT_NAMES.get(name, name) for name in names}


def test_everything_imported_is_declared():
    """Modules import the core dependencies; those of an extra are imported inside functions, and in no other place."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = distributions(project["dependencies"])
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name not in ("dev", "docs")}
    declared = core | set().union(*(distributions(needs) for needs in extras.values()))
    for path in modules():
        for name, eager in imports(path, (ROOT / path).read_text()):
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names | {"cryozoo"}:
                assert top in (core if eager else declared), f"{path} imports {name}"


def test_wheel_holds_the_package_and_nothing_else(tmp_path):
    """Built from the tracked files, without a registry; then the unpacked wheel runs."""
    for path in tracked():
        copy = tmp_path / "source" / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / path).read_bytes())
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    run(build, tmp_path, cwd=tmp_path / "source")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}

    roof = {"__init__.py", "__main__.py", "testing.py", "py.typed"}
    # All that lies in a folder of the package, data too; a folder's README.md speaks to people who read the source.
    # Results of benchmarks are read in the repository, where the commands that made them are run.
    left_out = ("benchmarks/results/",)
    below = {path for path in tracked() if path.split("/")[0] in FLOORS and not path.endswith("/README.md")}
    below = {path for path in below if not path.startswith(left_out)}
    assert shipped == {f"cryozoo/{path}" for path in roof | below}
    where = run("import cryozoo; print(cryozoo.__file__)", cwd=tmp_path / "site")
    assert Path(where.strip()) == tmp_path / "site" / "cryozoo" / "__init__.py"
    assert "cryozoo" in run("from cryozoo.cli.main import main; main(['--help'])", cwd=tmp_path / "site")


def run(code: str, *arguments: object, cwd: Path = ROOT) -> str:
    """Run ``code`` in a fresh interpreter that looks for modules in ``cwd`` first; its standard output."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("cryozoo", {"torch", "numpy", "pandas"}),
        ("cryozoo.zoo.registry", {"torch", "pandas"}),
        ("cryozoo.particles.errors", {"torch", "numpy"}),
        ("cryozoo.imaging", {"torch", "numpy"}),
    ],
)
def test_import_is_light(module, heavy):
    loaded = run(f"import sys, {module}; print(*sys.modules)").split()
    assert module in loaded
    assert heavy.isdisjoint(loaded)


@pytest.mark.parametrize("folder", sorted(FLOORS.keys() - {""}))
def test_a_folder_is_not_a_package_of_its_own(folder):
    """Run from the root, ``import heads`` would otherwise make a second copy of every class in it."""
    code = f"""
try:
    import {folder}
except ImportError as error:
    assert "relative import" in str(error), error
else:
    raise SystemExit("{folder} was imported")
"""
    run(code)


def test_the_root_has_one_name():
    spec = importlib.util.spec_from_file_location("main", ROOT / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match="is the package 'cryozoo' and was imported as 'main'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_modules_exist_once():
    """Under pytest too: no file of ours is loaded under two names, which would mean two registries."""
    from cryozoo.zoo import registry

    assert sys.modules["cryozoo.zoo.registry"] is registry
    assert Path(cryozoo.__file__) == ROOT / "__init__.py"
    names = {str(ROOT / path): ".".join(["cryozoo", *Path(path).with_suffix("").parts]) for path in modules()}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file in names:
            assert name == names[file].removesuffix(".__init__")


def test_every_folder_says_why_it_exists():
    """In its README.md or in a docstring, and in more than its own name."""
    said = {}
    for folder in sorted({path.split("/")[0] for path in tracked() if "/" in path and not path.startswith(".")}):
        readme = ROOT / folder / "README.md"
        sources = [ROOT / folder / name for name in ("__init__.py", "conftest.py")]
        texts = [ast.get_docstring(ast.parse(path.read_text())) or "" for path in sources if path.exists()]
        said[folder] = "\n".join([*texts, readme.read_text() if readme.exists() else ""])
    assert {folder: text for folder, text in said.items() if len(text.split()) < 20} == {}


def test_nothing_private_and_nothing_large_is_tracked():
    """No path of somebody's machine and no package registry: an install follows the machine's own settings."""
    private = re.compile(r"(?<![\w.~-])/(root|home|Users|work|tmp/\w+)/|pypi\.org|pythonhosted\.org")
    for path in tracked():
        content = (ROOT / path).read_bytes()
        assert len(content) <= 2_000_000, f"{path} has {len(content)} bytes"
        if b"\0" not in content:
            assert [line for line in content.decode().splitlines() if private.search(line)] == [], path
