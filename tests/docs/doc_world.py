"""What blocks are run against: a gateway that serves the pages' repository, and a folder."""

import contextlib
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import trustme
from doc_repository import AS_OF, HOUSEHOLDS, apart, fill, write_repository
from processes import Process

from hotfeast.server.local_redis import LocalRedis

# Those of the page on versions.
_ALIASES = """
for_you: {recommendation_v1: 90, recommendation_v2: 10}
ranking: {targets: {ranking_v1: 100}, shadow: {target: ranking_v2, share: 5%}}
"""


@dataclass(frozen=True)
class World:
    """It.

    Attributes:
        checkout: The root of the checkout.
        repo: The repository that is served.
        folder: Where commands and code are run; it has the files that pages name.
        address: `host:port` of the gateway.
        monitoring: The gateway's folder of what it has seen.
        metrics: URL of its page of figures.
    """

    checkout: Path
    repo: Path
    folder: Path
    address: str
    monitoring: Path
    metrics: str

    def here(self, text: str) -> str:
        """What a page says, with what is here in place of its examples."""
        for said, meant in (
            ("path/to/feature_repo", str(self.repo)),
            ("path/to/monitoring", str(self.monitoring)),
            ("127.0.0.1:6570", self.address),
            ("dns:///features:6570", f"dns:///{self.address}"),
        ):
            text = text.replace(said, meant)
        return text

    def figures(self) -> str:
        """The gateway's figures, as Prometheus reads them."""
        with urllib.request.urlopen(self.metrics, timeout=30) as page:
            return bytes(page.read()).decode()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """In the folder, and with the gateway's address in the environment."""
        before = dict(os.environ)
        os.environ["HOTFEAST_ADDRESS"] = self.address
        # Wide, so that no line of a table is broken.
        os.environ["COLUMNS"] = "200"
        os.environ["ALERT_WEBHOOK"] = "http://127.0.0.1:9/"
        os.environ["REDIS_PASSWORD"] = "secret"
        try:
            with contextlib.chdir(self.folder), apart(self.repo):
                yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def open_world(checkout: Path, folder: Path, redis: LocalRedis) -> Iterator[World]:
    """Starts it.

    Args:
        checkout: The root of the checkout.
        folder: An empty one.
        redis: The Redis to fill.
    """
    os.environ["HOTFEAST_REDIS"] = redis.address
    try:
        repo = folder / "feature_repo"
        write_repository(repo)
        fill(repo)
        scratch = folder / "scratch"
        scratch.mkdir()
        _write_files(scratch)
        (folder / "aliases.yaml").write_text(_ALIASES, encoding="utf-8")
        monitoring = folder / "monitoring"
        with Process(
            repo,
            *(
                "--as-of",
                AS_OF.isoformat(),
                "--aliases",
                str(folder / "aliases.yaml"),
                "--drain",
                "1",
            ),
            *("--monitor", "--monitor-dir", str(monitoring), "--monitor-rate", "1"),
            *("--metrics", "127.0.0.1:0"),
        ) as gateway:
            metrics = gateway.wait_for("metrics on").split()[-1]
            yield World(checkout, repo, scratch, gateway.address(), monitoring, metrics)
            assert gateway.stop() == 0, gateway.errors
    finally:
        del os.environ["HOTFEAST_REDIS"]


def _write_files(folder: Path) -> None:
    """The files that pages name without making them."""
    pd.DataFrame({"user_id": [1453, 10], "product_id": [1110572, 1082185]}).to_csv(
        folder / "asked.csv", index=False
    )
    pd.DataFrame(
        {"user_id": [1, 2], "clicks": [5, 7], "event_timestamp": [pd.Timestamp(AS_OF)] * 2}
    ).to_parquet(folder / "clicks.parquet")
    rows = {
        "user_id": list(HOUSEHOLDS) * 30,
        "product_id": [1110572] * 30 * len(HOUSEHOLDS),
        "event_timestamp": [pd.Timestamp(AS_OF)] * 30 * len(HOUSEHOLDS),
    }
    spent = [float(n) for n in range(len(rows["user_id"]))]
    for name, more in (("training", 0.0), ("last_week", 100.0)):
        frame = pd.DataFrame({**rows, "avg_basket_usd_7d": [usd + more for usd in spent]})
        frame.to_parquet(folder / f"{name}.parquet")
    authority = trustme.CA()
    mine = authority.issue_cert("me@example.com")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    mine.private_key_pem.write_to_path(str(folder / "me.key"))
    mine.cert_chain_pems[0].write_to_path(str(folder / "me.pem"))
