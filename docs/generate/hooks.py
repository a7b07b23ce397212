"""Makes the site's generated pages whenever it is built: no copy of them is kept by hand."""

from collections.abc import Callable
from pathlib import Path

from commands import command_page
from metrics import metrics_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from protocol import protocol_page
from settings import settings_page

PAGES: dict[str, Callable[[Path], str]] = {
    "reference/cli.md": command_page,
    "reference/metrics.md": metrics_page,
    "reference/protocol.md": protocol_page,
    "reference/settings.md": settings_page,
}
"""What makes each page, given the root of the checkout."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages to those of the folder; MkDocs calls it by its name."""
    root = Path(config.config_file_path).parent
    for name, make in PAGES.items():
        files.append(File.generated(config, name, content=make(root)))
    return files
