"""What people type: every promised name is there, lazily, and editors are told the same."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cryozoo

PROMISED = {
    *("list_encoders", "list_parts", "get_entry", "create_encoder", "load_pretrained", "save_pretrained"),
    *("PoseEncoder", "Pose", "PoseTable", "create_loss", "train", "Recipe", "evaluate", "export", "reconstruct"),
    "recover_orientations",
    *("register_backbone", "register_head", "register_loss"),
}


@pytest.mark.parametrize("name", sorted(PROMISED | cryozoo._HOMES.keys()))
def test_name(name):
    home = importlib.import_module(f"cryozoo.{cryozoo._HOMES[name]}")
    assert getattr(cryozoo, name) is getattr(home, name)
    assert getattr(cryozoo, name).__module__ == home.__name__
    assert getattr(cryozoo, name).__doc__


def test_dir_lists_what_there_is():
    listed = {name for name in dir(cryozoo) if not name.startswith("_")}
    assert set(cryozoo._HOMES) >= PROMISED
    assert listed >= set(cryozoo._HOMES)
    assert "__version__" in dir(cryozoo)


def test_help_says_what_there_is_and_imports_nothing():
    code = """if True:
        import pydoc, sys, cryozoo
        print(pydoc.plain(pydoc.render_doc(cryozoo)))
        assert {"torch", "numpy"}.isdisjoint(sys.modules), "help imports"
        dir(cryozoo)
        assert {"torch", "numpy"}.isdisjoint(sys.modules), "dir imports"
    """
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    described = re.findall(r"^ {8}(\w+) {2,}\S.*$", shown.partition("PACKAGE CONTENTS")[0], re.MULTILINE)
    assert sorted(described) == sorted(cryozoo._HOMES)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(cryozoo.__file__).read_text())
    imported = {
        a.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level for a in node.names
    }
    assert imported == set(cryozoo._HOMES)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'cryozoo' has no attribute 'load_pretraned'"):
        cryozoo.load_pretraned  # noqa: B018
    assert not hasattr(cryozoo, "__wrapped__")


def test_create_loss():
    loss = cryozoo.create_loss("chordal", symmetry="D2", norm="l1")
    assert type(loss).__name__ == "Chordal"
    assert (loss.symmetry, loss.norm) == ("D2", "l1")
    with pytest.raises(KeyError, match="unknown loss 'geodesik'; did you mean geodesic"):
        cryozoo.create_loss("geodesik")
