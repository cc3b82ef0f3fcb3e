"""Settings of the documentation: `make docs` builds it into docs/_build/html."""

import re
import warnings
from importlib.metadata import version as installed_version

from sphinx.application import Sphinx

project = "lightning_cosprune"
author = "The lightning_cosprune developers"
copyright = author  # noqa: A001 - Sphinx asks for this name
release = version = installed_version("lightning-cosprune")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery"]
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["tables.css"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# Links out of docs/ lead to files of the repository, which are no pages of the documentation.
suppress_warnings = ["myst.xref_missing", "config.cache"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_custom_sections = [("Conventions", "notes_style"), ("Source", "notes_style")]

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"/plot_",
    "show_memory": False,
    "download_all_examples": False,
    "min_reported_time": 1e9,
}


def setup(app: Sphinx) -> None:
    """Let docstrings write ``*kernel`` for axes that may be many, which reads as the start of emphasis."""

    def escape(_app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
        lines[:] = [re.sub(r"(?<![*\w])\*(?=\w+[,)])", r"\\*", line) for line in lines]

    app.connect("autodoc-process-docstring", escape, priority=400)


# Pages of the gallery train small networks, for which advice on workers is out of place.
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
warnings.filterwarnings("ignore", message=".*LeafSpec.*")
