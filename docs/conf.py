# SPDX-License-Identifier: Apache-2.0
"""Sphinx's settings. `make docs` builds with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "client" / "python" / "src")]

import attnd  # noqa: E402

project = "attnd"
copyright = "the attnd authors, Apache-2.0"
release = version = attnd.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",
    "protodoc",
    "daemondoc",
]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
# What `npm install` puts beside the Node example has pages of its own.
exclude_patterns = ["other-languages/node/node_modules"]

smartquotes_action = "D"  # dashes; quotes stay as they are typed
html_theme = "furo"
html_title = "attnd"
html_static_path = ["_static"]
html_css_files = ["attnd.css"]
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#b3261e", "color-brand-content": "#9c2a1f"},
    "dark_css_variables": {"color-brand-primary": "#ff8a75", "color-brand-content": "#ff9d8a"},
}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
napoleon_use_rtype = False
napoleon_use_ivar = True
nitpick_ignore_regex = [
    # Types of the standard library and of other packages: no inventory is fetched at build.
    (
        r"py:.*",
        r"^(?!attnd\.|flash_attention_amd).*",
    ),
    # Generated modules, type variables, and what a handle has to do with nobody but the package.
    (r"py:.*", r"attnd\.v1\..*|attnd\.(\w+\.)*_\w+"),
    (r"py:.*", r"attnd\.(process\.ProcessBound|options\.Payload|token_state\.TokenState)"),
]
