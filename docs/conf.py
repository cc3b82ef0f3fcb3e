"""Settings of the documentation: `make docs` builds it into docs/_build/html."""

import os
import re
import sys
import warnings
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

project = "lightning_cosprune"
author = "The lightning_cosprune developers"
copyright = author  # noqa: A001 - Sphinx asks for this name
release = version = installed_version("lightning-cosprune")

sys.path.insert(0, str(Path(__file__).parent))
extensions = [
    "mathml",
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
html_css_files = ["pages.css"]
# The pages ask nobody for anything: no script, font or picture comes from elsewhere.
html_math_renderer = "mathml"
myst_update_mathjax = False

myst_enable_extensions = ["attrs_block", "dollarmath"]
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
    # The page of computation times fetches scripts from elsewhere.
    "write_computation_times": False,
}


def setup(app: Sphinx) -> None:
    """Two liberties of the sources.

    Docstrings write ``*kernel`` for axes that may be many, which reads as the start of emphasis. Pages write ``±`` between
    spaces that are not to end a line.
    """

    def escape(_app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
        lines[:] = [re.sub(r"(?<![*\w])\*(?=\w+[,)])", r"\\*", line) for line in lines]

    def keep_together(_app: Sphinx, _page: str, source: list[str]) -> None:
        source[0] = re.sub(r"(?<=\d) ± (?=\d)", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", source[0])

    app.connect("autodoc-process-docstring", escape, priority=400)
    app.connect("source-read", keep_together)


# Pages of the gallery train small networks, for which advice on workers and a bar of progress are out of place.
os.environ["TQDM_DISABLE"] = "1"
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
warnings.filterwarnings("ignore", message=".*LeafSpec.*")
