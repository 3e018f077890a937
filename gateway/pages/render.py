"""Fill in a template of `templates/`.

Invariant: every value is escaped. Markup passes only where a template says `| safe`, which the templates do for our own
plots alone. A value that a template names and nobody gave is an error, not an empty space.
"""

import functools
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES: Final = Path(__file__).parent / "templates"


def render_page(template: str, **values: Any) -> str:
    """Return the template of that name, filled in with `values`."""
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
