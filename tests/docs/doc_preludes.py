"""What stands before a page's first block of Python, where the page takes it as given."""

PRELUDES: dict[str, str] = {
    "docs/how-to/push.md": """
from datetime import UTC, datetime

from hotfeast.clients import FeatureClient
""",
}
