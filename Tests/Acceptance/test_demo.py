"""What a newcomer types first."""

import subprocess

from suite import BINARY, ROOT


def test_the_demo_runs_to_its_end_and_leaves_nothing(binary, tmp_path):
    done = subprocess.run([ROOT / "scripts/demo.sh", BINARY], capture_output=True, text=True, timeout=300,
                          stdin=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    for shown in ("expected: 4", "Where the compute goes", "rank correlation", "Entries:", "stopped cleanly"):
        assert shown in done.stdout
    assert not list(tmp_path.iterdir())
