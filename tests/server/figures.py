"""What Prometheus would see."""

import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def scrape(url: str, token: str | None = None) -> dict[str, float]:
    """All figures, by name and labels as Prometheus writes them, labels sorted."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as page:
        text = page.read().decode()
    figures = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            figures[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return figures


def page_status(url: str, path: str) -> int:
    """The status of a page beside the figures."""
    try:
        with urllib.request.urlopen(url.replace("/metrics", path), timeout=10) as page:
            return int(page.status)
    except urllib.error.HTTPError as error:
        return error.code
