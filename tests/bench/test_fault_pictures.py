"""Pictures of the report with a fault, where there is no browser to take them."""

import os
import subprocess
import sys
from pathlib import Path


def test_without_a_browser_it_says_what_to_install(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "fault-pictures", "--folder", str(folder)],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "apt-get install chromium-driver" in done.stderr
    assert not folder.exists()
