"""The page of a gateway's settings, from the classes that hold them."""

from pathlib import Path

from hotfeast.server.config import FILE_VARIABLE, settings_options

_OPENING = f"""# Settings

The settings of `hotfeast serve`. Each is an option (`--redis-timeout 2`), a variable of the
environment (`HOTFEAST_REDIS_TIMEOUT=2`) and a key in the file that `--config` or `{FILE_VARIABLE}`
names (`redis_timeout: 2`); an option comes before a variable, and that before the file. Where they
are explained is said in [Configure the gateway](../how-to/configure.md).

| setting | default | a change counts | |
|---|---|---|---|
"""


def settings_page(root: Path) -> str:
    """The page, in Markdown.

    Args:
        root: Of the checkout.
    """
    rows = (
        f"| `{name}` | {f'`{shown}`' if (shown := option.shown(option.default)) else ''} "
        f"| {option.setting.applies} | {option.setting.text.replace('|', chr(92) + '|')} |\n"
        for name, option in settings_options().items()
    )
    return _OPENING + "".join(rows)
