"""``cryozoo list`` and ``cryozoo info``: what there is, and the facts of one of them."""

from __future__ import annotations

import inspect
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from .common import check_picture, format_table, load_encoder, metrics_table, verb

if TYPE_CHECKING:
    from ..zoo.entry import Entry
    from ..zoo.registry import Part

_KINDS: tuple[Literal["backbone", "head", "loss", "decoder"], ...] = ("backbone", "head", "loss", "decoder")


@verb("list", short_help="What there is: parts and encoders.")
@click.argument("pattern", default="*")
@click.option("--pretrained", is_flag=True, help="Only encoders with trained weights.")
def list_(pattern: str, pretrained: bool) -> None:
    """List parts and encoders whose names match a shell PATTERN (in quotes), such as 'vgg_*-sixd*'.

    An encoder is a backbone and a head, <backbone>-<head>; every backbone goes with every head. With trained weights it
    is <backbone>-<head>.<tag>, and the tag alone will do; the names of molecules count, too ('*ribosome*').
    """
    from ..zoo.entries import list_encoders
    from ..zoo.registry import get_part, list_parts

    sections: list[tuple[str, list[tuple[str, ...]]]] = []
    if not pretrained:
        for kind in _KINDS:
            parts = list_parts(kind, pattern)
            title = "losses" if kind == "loss" else f"{kind}s"
            sections.append((title, [(name, get_part(kind, name).summary) for name in parts]))
        if pattern == "*":
            sections[0][1].append(("timm_<arch>", "any architecture of the timm library, such as timm_resnet18"))
        if "-" in pattern:
            sections.append(("encoders", [(name, "") for name in list_encoders(pattern)]))
    sections.append(("pretrained encoders", _entries(list_encoders(pattern, pretrained=True))))
    found = [f"{title}:\n{format_table(rows, indent='  ')}" for title, rows in sections if rows]
    if not found and pattern != "*":
        raise click.BadParameter(
            f"nothing matches {pattern!r}; * stands for any letters: '*{pattern}*'", param_hint="PATTERN"
        )
    click.echo("\n\n".join(found) or "no pretrained encoders")


@verb("info", short_help="The facts of a part or an encoder.")
@click.argument("name")
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the map in whose frame trained weights answer (.png).",
)
def info(name: str, picture: Path | None) -> None:
    """Show the facts of a part, of an encoder (<backbone>-<head>), or of trained weights (<backbone>-<head>.<tag>)."""
    from ..zoo.entries import get_entry, whole_name
    from ..zoo.registry import split_name

    check_picture(picture)
    if picture is not None or name.startswith(("local-dir:", "hf-hub:")) or Path(name).is_dir():
        encoder = load_encoder(name)
        assert encoder.entry is not None
        if picture is not None:
            from ..zoo.figures import frame_figure, save_figure

            save_figure(frame_figure(encoder), picture)
        _show_entry(encoder.entry)
    elif "-" not in name and whole_name(name) == name:
        _show_part(name)
    elif split_name(whole_name(name))[2] is None:
        _show_combination(name)
    else:
        _show_entry(get_entry(name))


def _entries(names: list[str]) -> list[tuple[str, ...]]:
    """A table of pretrained encoders; empty where there are none."""
    from ..zoo.entries import get_entry

    head = ("tag", "molecule", "", "pixels", "deg at SNR 0.1", "refined", "kB", "encoder")
    return [head, *(_entry_row(get_entry(name)) for name in names)] if names else []


def _entry_row(entry: Entry) -> tuple[str, ...]:
    molecule, at = entry.molecule, entry.at_snr("0.1")
    size = sum(facts.size for facts in entry.files.values())
    return (
        entry.tag or "",
        f"{molecule.name} ({molecule.source})" if molecule else "not recorded",
        entry.symmetry,
        f"{entry.image_size} of {entry.pixel_size:g} A",
        *(f"{at[how]['median_deg']:.1f}" if how in at else "-" for how in ("alone", "refined")),
        f"{size / 1000:.0f}",
        entry.name,
    )


def _show_part(name: str) -> None:
    from ..zoo.registry import UnknownName, get_part, list_parts, nearest

    kinds = [kind for kind in _KINDS if name in list_parts(kind)]
    if not kinds:
        with suppress(UnknownName):  # one of a family, which is not listed
            get_part("backbone", name)
            kinds = ["backbone"]
    if not kinds:
        everything = [part for kind in _KINDS for part in list_parts(kind)]
        raise UnknownName(f"no part {name!r}{nearest(name, everything)}")
    for kind in kinds:
        part = get_part(kind, name)
        made = part.load()
        click.echo(f"{kind} {name}: {part.summary}")
        click.echo(format_table(_facts(part, made), indent="  "))
        # A variant is a partial of its target; the docstring is the target's.
        click.echo("\n" + (inspect.getdoc(getattr(made, "func", made)) or "no docstring"))


def _facts(part: Part, made: Any) -> list[tuple[str, str]]:
    where = part.target if isinstance(part.target, str) else f"{part.target.__module__}:{part.target.__qualname__}"
    rows = [("where", where)]
    if part.defaults:
        rows.append(("as", ", ".join(f"{key}={value}" for key, value in part.defaults.items())))
    if hasattr(made, "has_confidence"):
        confidence = "with a confidence" if made.has_confidence else "no confidence"
        layer = "an" if made(**made.equivariant_args).equivariant else "no"
        rows.append(("head", f"{confidence}, {layer} equivariant last layer"))
    return rows


def _show_combination(name: str) -> None:
    from ..zoo.cost import describe_cost
    from ..zoo.encoder import create_encoder
    from ..zoo.entries import list_encoders

    encoder = create_encoder(name, image_size=64)
    tags = list_encoders(f"{name}.*", pretrained=True)
    rows = [
        ("cost", describe_cost(encoder)),
        ("features", f"{encoder.backbone.num_features}"),
        ("numbers before the head", f"{encoder.head.raw_dim}"),
        ("confidence", "yes" if encoder.head.has_confidence else "no"),
        ("equivariant to", _symmetry(encoder.group)),
        ("trained weights", ", ".join(tags) or "none"),
    ]
    click.echo(f"{name}\n{format_table(rows, indent='  ')}")


def _symmetry(group: str | None) -> str:
    from ..geometry.plane_groups import PlaneGroup

    if group is None:
        return "nothing"
    return f"{group}, exactly" if PlaneGroup(group).exact else f"{group}, as far as the grid of pixels allows"


def _show_entry(entry: Entry) -> None:
    from ..zoo.columns import columns

    molecule, metrics, licences = entry.molecule, entry.metrics, entry.licences
    rows = [
        ("source", entry.source),
        ("molecule", f"{molecule.name} ({molecule.source}, {molecule.symmetry})" if molecule else "unknown"),
        ("images", f"{entry.image_size} x {entry.image_size} pixels of {entry.pixel_size:g} A"),
        ("parameters", f"{entry.parameters:,}"),
        ("superseded by", entry.superseded_by),
        *((f"licence of {kind}", name) for kind, name in (vars(licences) if licences else {}).items()),
        ("cite", entry.citation),
        *((c.line, metrics.get(c.key)) for c in columns("provenance")),
    ]
    known = [(name, str(value)) for name, value in rows if value is not None]
    click.echo(f"{entry.full_name}\n{format_table(known, indent='  ')}")
    if shown := metrics_table(metrics, indent="  "):
        click.echo(f"\non its test set\n{shown}")
