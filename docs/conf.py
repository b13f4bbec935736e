"""How Sphinx makes the site; `bash mpi_scripts/docs.sh` runs it."""

import logging
import sys
from pathlib import Path

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import facts  # noqa: E402
import pages  # noqa: E402

from nbodykit_sr import __version__  # noqa: E402

project = "nbodykit_sr"
copyright = "the authors of nbodykit_sr"
version = release = __version__
language = "en-GB"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints", "tutorials/output"]
default_role = "py:obj"  # `Name` in a docstring is a link where there is something to link to
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_substitutions = {
    name: getattr(facts, name)()
    for name in ("models", "speed", "galaxies", "densities", "density_cosmologies")
}

# docs.sh chooses whether notebooks run; what did not change is taken from the cache
nb_execution_timeout = 1800
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "nbodykit_sr"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
pygments_style = "friendly"

logging.getLogger("nbodykit_sr").setLevel(logging.ERROR)


def _inline(translator, node):
    translator.body.append(convert(node.astext()))
    raise SkipNode


def _block(translator, node):
    translator.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise SkipNode


def setup(app):
    # MathML, which browsers draw by themselves: equations are there without a network
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("builder-inited", lambda app: pages.write(HERE / "reference" / "made"))
