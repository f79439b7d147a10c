"""A benchmark as a person runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PNG = b"\x89PNG\r\n\x1a\n"


def quick_run(
    name: str, directory: Path
) -> tuple[dict[str, Any], "subprocess.CompletedProcess[str]"]:
    """Run `python -m benchmarks NAME --quick` with a picture; return its JSON and the process."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", name, "--quick"),
            *("--json", str(directory / "a.json"), "--plot", str(directory / "a.png")),
        ],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("OPENAI_")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not figures to quote" in done.stderr
    assert (directory / "a.png").read_bytes().startswith(PNG)
    report: dict[str, Any] = json.loads((directory / "a.json").read_text())
    assert report["bench"] == name
    return report, done
