"""examples/playwright does what its README says."""

import subprocess
import sys

from harness import STAGE
from processes import CAP

EXAMPLE = STAGE / "example"


def test_the_example_runs_as_its_readme_says(cast):
    herd = cast.herd(as_documented=True)
    for command, says in (
        ([sys.executable, "client.py", "user-42"], "“Hello from Python”"),
        (["node", "client.mjs", "user-43"], "“Hello from Node”"),
    ):
        done = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, timeout=2 * CAP)
        assert done.returncode == 0, f"{command}: {done.stderr}\nherd's log:\n{herd.tail()}"
        assert says in done.stdout and command[-1] in done.stdout, done.stdout
