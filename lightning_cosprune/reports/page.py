"""A page that stands alone, from headings, texts, tables and figures."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_cosprune.reports.viz import import_viz

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write_html"]


def write_html(
    path: str | os.PathLike[str], title: str, sections: Sequence[tuple[str, str | Figure | Sequence[Sequence[str]]]]
) -> None:
    """Write a page that stands alone: no scripts, no links, pictures inside.

    Args:
        path: The file; its folder is made, and it is replaced in one step.
        title: Of the page.
        sections: Heading and content: text, a table as rows of cells of which the first is the header, or a figure. A
            section with an empty heading goes on with the one before.

    Raises:
        ModuleNotFoundError: The extra ``viz`` is not installed.
    """
    jinja2 = import_viz("jinja2")
    parts: list[dict[str, Any]] = []
    for heading, content in sections:
        if isinstance(content, str):
            parts.append({"heading": heading, "text": content})
        elif isinstance(content, Sequence):
            parts.append({"heading": heading, "header": content[0], "rows": content[1:]})
        else:
            picture = io.BytesIO()
            content.savefig(picture, format="png", dpi=110)
            parts.append({"heading": heading, "picture": base64.b64encode(picture.getvalue()).decode()})
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("lightning_cosprune.reports", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template("page.html.jinja")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.write_text(page.render(title=title, parts=parts), encoding="utf-8")
    partial.replace(target)
