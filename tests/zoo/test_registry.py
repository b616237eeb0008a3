"""The registry: names, duplicates, suggestions, third parties."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import cryozoo
from cryozoo.zoo import registry
from cryozoo.zoo.parts import BadArguments, PartError, load_part, make_part
from cryozoo.zoo.registry import UnknownName, get_part, list_combinations, list_parts, register_head, split_name


@pytest.fixture(autouse=True)
def _restore() -> object:
    before = {kind: dict(table) for kind, table in registry._PARTS.items()}
    yield
    for kind, table in before.items():
        registry._PARTS[kind].clear()
        registry._PARTS[kind].update(table)


@pytest.mark.parametrize("kind", ["backbone", "head", "loss", "decoder"])
def test_every_entry_loads_and_has_facts(kind: registry.Kind) -> None:
    for name in list_parts(kind):
        part = get_part(kind, name)
        assert callable(part.load())
        assert part.summary


def test_listing_imports_no_torch() -> None:
    code = "import sys, cryozoo.zoo.registry as r; r.list_combinations('vgg*'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_combinations_are_the_product() -> None:
    assert len(list_combinations()) == len(list_parts("backbone")) * len(list_parts("head"))
    assert list_combinations("vgg_gem-sixd_*") == ["vgg_gem-sixd_gs", "vgg_gem-sixd_svd"]


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean quaternion"):
        get_part("head", "quaternions")
    with pytest.raises(UnknownName, match="cryozoo list"):
        get_part("head", "zzz")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("vgg_gem-sixd_svd", ("vgg_gem", "sixd_svd", None)),
        ("a1-b.80s_128", ("a1", "b", "80s_128")),
        ("d4_cnn-q.s80", ("d4_cnn", "q", "s80")),
    ],
)
def test_names_are_parsed(name: str, parts: tuple[str, str, str | None]) -> None:
    assert split_name(name) == parts


@pytest.mark.parametrize("name", ["", "vgg_gem", "a-b-c", "A-b", "a-b.c.d", "a-b.", "../x-y", "a-b\n"])
def test_malformed_names_are_refused(name: str) -> None:
    with pytest.raises(UnknownName, match="not an encoder name"):
        split_name(name)


def test_third_parties_register_and_duplicates_raise() -> None:
    @register_head("my_head")
    class MyHead:
        """A head of somebody else."""

    assert get_part("head", "my_head").load() is MyHead
    assert get_part("head", "my_head").summary == "A head of somebody else."
    with pytest.raises(ValueError, match="registered already"):
        register_head("my_head", "somewhere:Else")
    with pytest.raises(ValueError, match="lower-case"):
        register_head("My-Head", "somewhere:Else")


def test_a_family_is_named_by_its_prefix_and_imports_nothing() -> None:
    code = """
import sys, cryozoo.zoo.registry as r
part = r.get_part("backbone", "timm_resnet18")
assert part.member == "resnet18" and part.summary
assert not r.list_parts("backbone", "timm_*") and not r.list_combinations("timm_*")
assert {"timm", "torchvision", "torch"}.isdisjoint(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["timm_", "timm", "timm_Res", "timm_a-b", "timm_hf-hub:a/b", "timm_a.b", "timm_a\n"])
def test_malformed_members_of_a_family_are_unknown(name: str) -> None:
    with pytest.raises(UnknownName, match="unknown backbone 'timm"):
        get_part("backbone", name)


def test_a_family_is_of_one_kind() -> None:
    with pytest.raises(UnknownName, match="unknown head 'timm_resnet18'"):
        get_part("head", "timm_resnet18")


def test_a_registered_part_goes_before_a_family() -> None:
    registry.register_backbone("timm_mine", "somewhere:Else", summary="mine")
    assert get_part("backbone", "timm_mine").summary == "mine"


def test_a_part_says_which_package_it_came_with() -> None:
    registry.register_backbone("from_a_package", "scipy.spatial.transform:Rotation")
    registry.register_backbone("from_a_script", lambda image_size, in_chans: None)
    registry.register_backbone("from_nowhere", "nosuch_module:Thing")
    ours, others = get_part("backbone", "vgg_gem").distribution, get_part("backbone", "from_a_package").distribution
    assert (str(ours), str(others)) == (f"cryozoo {cryozoo.__version__}", f"scipy {version('scipy')}")
    assert str(get_part("backbone", "timm_resnet18").distribution) == str(ours)
    assert get_part("backbone", "from_nowhere").distribution is None


def test_arguments_and_failures_of_a_part_are_told_apart() -> None:
    def make(image_size: int, in_chans: int, *, width: int = 1) -> None:
        if width < 0:
            raise ValueError(f"width {width}")
        raise (ImportError("no such module") if width > 1 else TypeError("a mistake"))

    registry.register_backbone("careless", make)
    for args, message in (({"name": 1}, "'name'; its arguments: width"), ({"width": -1}, "width -1")):
        with pytest.raises(BadArguments, match=f"backbone careless: .*{message}") as refused:
            make_part("backbone", "careless", 32, 1, **args)
        assert refused.value.field == "backbone_args"
    for args, message in (({}, "TypeError: a mistake"), ({"width": 2}, "ImportError: no such module")):
        with pytest.raises(PartError, match=f"^backbone 'careless'.*: {message}$"):
            make_part("backbone", "careless", 32, 1, **args)
    registry.register_head("gone", "nosuch_module:Thing")
    with pytest.raises(PartError, match=r"^head 'gone': ModuleNotFoundError: No module named 'nosuch_module'"):
        load_part("head", "gone")
    with pytest.raises(UnknownName):
        make_part("head", "nosuch")
