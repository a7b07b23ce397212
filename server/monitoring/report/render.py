"""The page: one HTML file with its style, script and figures in it, which fetches nothing.

What a registry says (descriptions, tags, names) and what values there were is text of strangers.
It is in the page as JSON that cannot end its element, becomes text nodes when it is drawn, and a
policy of the page allows its own script and style by their hashes and nothing else.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from hotfeast.server.monitoring.report.model import FeatureDetails, Report

# In the order in which they need each other.
_SCRIPTS = ("dom", "charts", "lineage", "overview", "features", "details", "catalogue", "main")


def as_json(content: Any) -> str:
    """JSON as the page reads it, without the spaces.

    Raises:
        ValueError: A number in it is not finite.
    """
    return json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def render_page(
    report: Report, details: Mapping[str, Mapping[str, FeatureDetails]] | None = None
) -> str:
    """The whole page.

    Args:
        report: What is seen at once.
        details: By view and feature, what is seen of one that is opened; None where the page
            fetches it from where it came from.
    """
    parts = _parts()
    counts = {
        "views": len(report.views),
        "services": len(report.services),
        "entities": len(report.entities),
        "sources": len(report.sources),
    }
    page: str = parts["template"].render(
        project=report.project,
        policy=f"{parts['policy']}; connect-src '{'none' if details is not None else 'self'}'",
        css=parts["css"],
        theme=parts["theme"],
        script=parts["script"],
        counts=counts,
        report=_in_element(asdict(report)),
        views=[
            (view, _in_element({name: asdict(each) for name, each in features.items()}))
            for view, features in (details or {}).items()
        ],
    )
    return page


def _in_element(content: Any) -> Markup:
    return htmlsafe_json_dumps(content, dumps=lambda value, **_: as_json(value))


@cache
def _parts() -> dict[str, Any]:
    """The parts that are the same in every page."""
    folder = files(__package__) / "page"
    text = {name: (folder / name).read_text("utf-8") for name in ("page.html", "page.css")}
    scripts = [(folder / f"{name}.js").read_text("utf-8") for name in _SCRIPTS]
    theme = (folder / "theme.js").read_text("utf-8")
    script = '"use strict";\n(() => {\n' + "\n".join(scripts) + "})();\n"
    policy = (
        f"default-src 'none'; style-src {_hash(text['page.css'])}; "
        f"script-src {_hash(theme)} {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return {
        "template": environment.from_string(text["page.html"]),
        "policy": policy,
        "css": Markup(text["page.css"]),
        "theme": Markup(theme),
        "script": Markup(script),
    }


def _hash(text: str) -> str:
    """How a policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
