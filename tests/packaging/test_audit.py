"""What is made of pip-audit's report."""

import json

import pytest
from audit import SOUND, UNKNOWN, VULNERABLE, read_report, words_of

FINE = {"name": "idna", "version": "3.20", "vulns": []}
SKIPPED = {"name": "filelock", "skip_reason": "Dependency not found on PyPI: filelock (4.2.12)"}
WRONG = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [
        {"id": "PYSEC-2021-66", "fix_versions": ["2.11.3"], "aliases": ["CVE-2020-28493"]},
        {"id": "PYSEC-2019-217", "fix_versions": [], "aliases": []},
    ],
}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([FINE], SOUND, "1 packages without known vulnerabilities, 0 vulnerabilities"),
        ([FINE, SKIPPED], UNKNOWN, "AUDIT NOT DONE for 1 packages"),
        ([SKIPPED], UNKNOWN, "AUDIT NOT DONE for 1 packages"),
        ([], UNKNOWN, "AUDIT NOT DONE for 0 packages"),
        (
            [FINE, WRONG],
            VULNERABLE,
            "jinja2 2.4.1: PYSEC-2021-66 (CVE-2020-28493), mended",
        ),
        ([WRONG, SKIPPED], VULNERABLE, "AUDIT NOT DONE for 1 packages"),
    ],
)
def test_what_is_known_is_told(packages: list[object], code: int, said: str) -> None:
    audit = read_report(json.dumps({"dependencies": packages, "fixes": []}))
    assert audit.code == code
    assert said in "\n".join(words_of(audit))


@pytest.mark.parametrize("report", ["", "No known vulnerabilities found", "[]", "{}"])
def test_what_is_no_report_is_no_audit(report: str) -> None:
    with pytest.raises(ValueError, match="nothing that can be read"):
        read_report(report)
