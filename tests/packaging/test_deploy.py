"""What is in `deploy`, judged by the tools that it is for."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from hotfeast.server.config import read_configuration

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
sys.path.insert(0, str(DEPLOY.parent / "docs" / "generate"))

from metrics import described_metrics  # noqa: E402

KUBERNETES = DEPLOY / "kubernetes"
VERSIONS = ["1.30", "1.34"]
# Files that kustomize and prometheus-adapter read, and Kubernetes does not.
_NOT_RESOURCES = {"kustomization.yaml", "prometheus-adapter.yaml"}


def run(*command: str | Path, folder: Path = DEPLOY) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needs(program: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        shutil.which(program) is None,
        reason=f"{program} is not installed (apt-get install {package})",
    )


def tool(name: str) -> Path:
    return Path(sys.executable).parent / name


def resources() -> Iterator[dict[str, Any]]:
    for path in sorted(KUBERNETES.glob("*.yaml")):
        if path.name not in _NOT_RESOURCES:
            yield yaml.safe_load(path.read_text())


def test_dockerfile() -> None:
    file = DEPLOY / "docker" / "Dockerfile"
    run(tool("hadolint"), file)
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    sets = re.findall(r"\bEXTRAS=([\w,]+)", file.read_text())
    assert sets == ["server,otel,kafka", "server,otel"]
    assert {name for each in sets for name in each.split(",")} <= set(
        project["optional-dependencies"]
    )
    ignored = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().split()
    needed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    root = DEPLOY.parent
    assert all((root / name).exists() for name in needed)
    assert {"clients", "hotpath", "protos", "server", "setup.py", "pyproject.toml"} <= needed


def test_yaml() -> None:
    run(tool("yamllint"), "--strict", "--config-file", DEPLOY / ".yamllint", DEPLOY)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_the_resources(version: str) -> None:
    found = list(resources())
    assert {each["kind"] for each in found} == {
        "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service",
        "ServiceAccount",
    }  # fmt: skip
    for each in found:
        kubernetes_validate.validate(each, version, strict=True)


@needs("kubectl", "kubernetes-client")
def test_kustomize_puts_them_together() -> None:
    made = list(yaml.safe_load_all(run("kubectl", "kustomize", KUBERNETES)))
    for each in made:
        kubernetes_validate.validate(each, VERSIONS[-1], strict=True)
    by_kind = {(each["kind"], each["metadata"]["name"]): each for each in made}
    pod = by_kind["Deployment", "hotfeast"]["spec"]["template"]
    # Whoever selects pods selects these.
    for kind, name in (("Service", "hotfeast"), ("Service", "hotfeast-pods")):
        selector = by_kind[kind, name]["spec"]["selector"].items()
        assert selector <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "hotfeast:0.1.0"


def test_the_resources_and_the_settings_agree() -> None:
    file = KUBERNETES / "config" / "hotfeast.yaml"
    found = read_configuration({}, {}, file)
    assert found.warnings == ()
    settings = found.settings()
    assert settings.metrics is not None
    (deployment,) = [each for each in resources() if each["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"grpc": settings.port, "metrics": settings.metrics[1]}
    mounted = {each["mountPath"] for each in container["volumeMounts"]}
    assert str(settings.repo) in mounted
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] >= pause + settings.drain + 10
    assert spec["enableServiceLinks"] is False


@needs("systemd-analyze", "systemd")
def test_systemd_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "hotfeast.service").read_text()
    unit = tmp_path / "hotfeast.service"
    # The program is not installed here.
    unit.write_text(text.replace("/opt/hotfeast/bin/hotfeast", "/bin/true"))
    run("systemd-analyze", "verify", unit)
    said = run("systemd-analyze", "security", "--offline=true", "--threshold=20", unit)
    assert "Overall exposure level" in said


@needs("promtool", "prometheus")
def test_alerts() -> None:
    folder = DEPLOY / "prometheus"
    run("promtool", "check", "config", "prometheus.yml", folder=folder)
    # Its files are not here.
    run("promtool", "check", "config", "--syntax-only", "prometheus-guarded.yml", folder=folder)
    assert "SUCCESS" in run("promtool", "test", "rules", "hotfeast-alerts-test.yml", folder=folder)
    groups = yaml.safe_load((folder / "hotfeast-alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    tested = (folder / "hotfeast-alerts-test.yml").read_text()
    for rule in rules:
        assert f'alertname="{rule["alert"]}"' in tested
        assert {"summary", "action"} <= set(rule["annotations"])


def test_rules_and_panels_are_of_metrics_that_there_are() -> None:
    known = {metric.name for metric in described_metrics(DEPLOY.parent / "server")}
    for path in ("prometheus/hotfeast-alerts.yml", "grafana/hotfeast.json"):
        named = set(re.findall(r"\bhotfeast_[a-z_]+", (DEPLOY / path).read_text()))
        assert len(named) > 20
        strange = {re.sub("_(bucket|sum|count)$", "", name) for name in named} - known
        assert not strange, path


def test_dashboard() -> None:
    """Its queries are asked of a Prometheus by `tests/server/test_operated.py`."""
    dashboard = json.loads((DEPLOY / "grafana" / "hotfeast.json").read_text())
    panels = [each for each in dashboard["panels"] if each["type"] != "row"]
    assert len({each["id"] for each in dashboard["panels"]}) == len(dashboard["panels"])
    for each in panels:
        assert each["title"]
        assert each["targets"]
        assert each["fieldConfig"]["defaults"]["unit"]
