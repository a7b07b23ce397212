"""Findings in SARIF 2.1.0, which code hosts show beside the lines."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hotfeast.server.lint.findings import Finding, Severity
from hotfeast.server.lint.linting import LintResult
from hotfeast.server.lint.rules import RULES

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
"""Where the schema of the format is."""

_LEVELS = {Severity.error: "error", Severity.warning: "warning", Severity.info: "note"}
_CONFIGURATION = "feature_store.yaml"


def to_sarif(result: LintResult, base: Path) -> dict[str, Any]:
    """The findings as a SARIF log.

    Args:
        result: They.
        base: The folder that paths are relative to where the repository lies in it, such as the
            checkout that CI runs in; those of another repository are whole.
    """
    index = {name: i for i, name in enumerate(RULES)}
    driver = {
        "name": "hotfeast lint",
        "version": version("hotfeast"),
        "rules": [
            {
                "id": rule.id,
                "shortDescription": {"text": rule.about},
                "defaultConfiguration": {"level": _LEVELS[rule.severity]},
            }
            for rule in RULES.values()
        ],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [
            _result(finding, index[finding.rule], result.repo, base) for finding in result.findings
        ],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def write_sarif(result: LintResult, path: Path, base: Path) -> None:
    """Writes the findings; arguments as for `to_sarif`.

    Raises:
        OSError: The file cannot be written.
    """
    path.write_text(json.dumps(to_sarif(result, base), indent=2) + "\n", encoding="utf-8")


def _result(finding: Finding, rule: int, repo: Path, base: Path) -> dict[str, Any]:
    # What is not written in a file of the repository is shown at its configuration.
    file = finding.place.file if finding.place is not None else _CONFIGURATION
    line = finding.place.line if finding.place is not None else 1
    identity = "\n".join((finding.rule, finding.kind, finding.name, finding.field, finding.message))
    return {
        "ruleId": finding.rule,
        "ruleIndex": rule,
        "level": _LEVELS[finding.severity],
        "message": {
            "text": f"{finding.kind} {finding.subject} {finding.message}. Fix: {finding.fix}."
        },
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(repo.resolve() / file, base.resolve())},
                    "region": {"startLine": line},
                },
                "logicalLocations": [
                    {"fullyQualifiedName": finding.subject, "kind": str(finding.kind)}
                ],
            }
        ],
        # The same finding in another commit, wherever its line has gone.
        "partialFingerprints": {
            "hotfeast/v1": hashlib.sha256(identity.encode()).hexdigest(),
        },
    }


def _uri(path: Path, base: Path) -> str:
    if path.is_relative_to(base):
        # Quoted as a file's, and relative.
        return path.as_uri()[len(base.as_uri().rstrip("/")) + 1 :]
    return path.as_uri()
