"""Makes the site's generated pages whenever it is built: no copy of them is kept by hand.

The first page begins as README does.
"""

from collections.abc import Callable
from pathlib import Path

from commands import command_page
from metrics import metrics_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from protocol import protocol_page
from settings import settings_page

PAGES: dict[str, Callable[[Path], str]] = {
    "reference/cli.md": command_page,
    "reference/metrics.md": metrics_page,
    "reference/protocol.md": protocol_page,
    "reference/settings.md": settings_page,
}
"""What makes each page, given the root of the checkout."""

_README = "<!-- README -->"
# What of README the first page has: all between these.
_FROM, _TO = "# Hotfeast\n", "## Documentation\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages to those of the folder; MkDocs calls it by its name."""
    root = Path(config.config_file_path).parent
    for name, make in PAGES.items():
        files.append(File.generated(config, name, content=make(root)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts README's opening where the first page wants it; MkDocs calls it by its name."""
    if _README not in markdown:
        return markdown
    readme = (Path(config.config_file_path).parent / "README.md").read_text(encoding="utf-8")
    opening = readme.partition(_FROM)[2].partition(_TO)[0]
    return markdown.replace(_README, opening.replace("](docs/", "]("))
