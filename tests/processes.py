"""Programs of these tests that start processes of their own, under a time limit: what goes wrong is often a hang."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def launch(
    program: str, *arguments: object, timeout: float = 150, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run ``tests/<program>``; its processes find each other at a port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tests = Path(__file__).parent
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "LOCAL_RANK", "NODE_"))}
    return subprocess.run(
        [sys.executable, str(tests / program), *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout,
        env={
            **kept,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}",
            "GLOO_SOCKET_IFNAME": "lo",
            **variables,
        },
    )
