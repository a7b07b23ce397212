"""Settings that change while a gateway serves."""

import json
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from feast import FeatureStore
from figures import scrape
from processes import Process, eventually

from hotfeast.clients import FeatureClient


def lines(process: Process) -> list[dict[str, Any]]:
    """What is logged as JSON."""
    return [json.loads(line) for line in list(process.errors) if line.startswith("{")]


def page(url: str) -> tuple[int, str]:
    """Status and text."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_settings_change_while_a_gateway_serves(market_store: FeatureStore, tmp_path: Path) -> None:
    file = tmp_path / "hotfeast.yaml"
    quiet = "log_format: json\nlog_level: error\nmetrics: 127.0.0.1:0\n"
    file.write_text(quiet)
    with Process(Path(market_store.repo_path), "--config", str(file)) as process:
        url = process.wait_for("metrics on").split(" on ")[1]
        # Alive before it is ready.
        where = url.removesuffix("/metrics")
        assert page(f"{where}/live") == (200, "liveness: ok\n")
        assert page(f"{where}/ready") == (503, "readiness: no worker is ready\n")
        address = process.address()
        assert page(f"{where}/ready") == (200, "readiness: ok\n")
        (first,) = process.workers()
        assert scrape(url)["hotfeast_config_valid"] == 1
        assert lines(process) == []
        # What counts at once is told to the workers that there are.
        file.write_text(quiet.replace("error", "info"))
        eventually(lambda: any("log_level" in line["message"] for line in lines(process)))
        (told,) = lines(process)
        assert (told["level"], told["logger"]) == ("info", "hotfeast.server.workers")
        assert told["pid"] == process.process.pid
        # What is not valid is told, and changes nothing.
        file.write_text("threads: none\n")
        eventually(lambda: scrape(url)["hotfeast_config_valid"] == 0)
        assert f"{file}:1: threads: 'none'" in lines(process)[-1]["message"]
        # What needs new workers has them started; what needs a restart is told to.
        file.write_text(quiet + "status_mode: feast\nlog_levels: hotfeast=info\nworkers: 2\n")
        process.process.send_signal(signal.SIGHUP)
        process.wait_for("reload: done")
        assert process.workers().isdisjoint({first})
        assert len(process.workers()) == 1
        assert scrape(url)["hotfeast_config_valid"] == 1
        messages = [line["message"] for line in lines(process)]
        assert "settings that count after a restart have changed: workers" in messages
        with FeatureClient(address) as client:
            assert client.serving_info().status_mode == "feast"
        # They log as they are told, with their number.
        workers = [line for line in lines(process) if "worker" in line]
        assert {line["worker"] for line in workers} == {1}
        assert {line["pid"] for line in workers} == process.workers()
        # Settings that no worker starts with are not kept.
        file.write_text(quiet + "redis_url: nonsense://\n")
        eventually(lambda: scrape(url)["hotfeast_config_valid"] == 0)
        with FeatureClient(address) as client:
            assert client.serving_info().status_mode == "feast"
        assert process.stop() == 0
