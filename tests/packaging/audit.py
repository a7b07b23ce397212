"""Known vulnerabilities of what constraints.txt pins: `make audit`.

pip-audit asks PyPI, and takes packages that PyPI tells nothing of for sound. Here they are told of:
an audit that has not looked is no audit.

Exit codes: 0 if all packages were looked at and nothing is known of them, 1 if something is, 3 if
some of them, or all, could not be looked at.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

SOUND, VULNERABLE, UNKNOWN = 0, 1, 3

# Seconds for all of them, and for each answer.
_LIMIT = 300
_ANSWER_LIMIT = 10
_BANNER = "!" * 72


class Audit(NamedTuple):
    """What is known.

    Attributes:
        sound: How many packages have no known vulnerability.
        vulnerable: Packages with what is known of them.
        skipped: Packages that could not be looked at, and why.
    """

    sound: int
    vulnerable: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def code(self) -> int:
        """The exit code."""
        if self.vulnerable:
            return VULNERABLE
        return UNKNOWN if self.skipped or not self.sound else SOUND


def read_report(report: str) -> Audit:
    """What pip-audit says in JSON.

    Raises:
        ValueError: It says something else.
    """
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"pip-audit says nothing that can be read: {report[:200]!r}") from None
    skipped = [f"{p['name']}: {p['skip_reason']}" for p in packages if "skip_reason" in p]
    vulnerable = [
        f"{p['name']} {p['version']}: {v['id']} ({', '.join(v['aliases']) or 'no other name'}), "
        f"mended in {', '.join(v['fix_versions']) or 'no version'}"
        for p in packages
        for v in p.get("vulns", ())
    ]
    sound = sum(1 for p in packages if "skip_reason" not in p and not p.get("vulns"))
    return Audit(sound, tuple(vulnerable), tuple(skipped))


def words_of(audit: Audit) -> Sequence[str]:
    """The same for people."""
    said = [f"vulnerable: {line}" for line in audit.vulnerable]
    if audit.skipped or not audit.sound:
        said += [
            _BANNER,
            f"AUDIT NOT DONE for {len(audit.skipped)} packages: PyPI tells nothing of them here.",
            "Nothing is known of them, which is not the same as their having no vulnerability.",
            *(f"  {line}" for line in audit.skipped[:3]),
            "Run `make audit` where the index answers for NAME/VERSION/json.",
            _BANNER,
        ]
    said.append(
        f"audit: {audit.sound} packages without known vulnerabilities, "
        f"{len(audit.vulnerable)} vulnerabilities, {len(audit.skipped)} packages not looked at"
    )
    return said


def main() -> int:
    """Asks, tells, and returns the exit code."""
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip_audit"),
                *("--requirement", str(root / "constraints.txt"), "--no-deps", "--disable-pip"),
                *("--format", "json", "--progress-spinner", "off"),
                *("--timeout", str(_ANSWER_LIMIT)),
            ],
            capture_output=True, text=True, timeout=_LIMIT, check=False,
        )  # fmt: skip
        audit = read_report(done.stdout)
    except subprocess.TimeoutExpired:
        audit = Audit(0, (), (f"all of them: no answer within {_LIMIT} s",))
    except ValueError as error:
        audit = Audit(0, (), (f"all of them: {error}; {done.stderr.strip()[-300:]}",))
    print("\n".join(words_of(audit)))
    return audit.code


if __name__ == "__main__":
    sys.exit(main())
