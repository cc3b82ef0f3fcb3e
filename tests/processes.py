"""Processes of these tests' own, under a time limit: what goes wrong there is often a hang."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
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


def told_to_nobody(ask: Callable[[], object]) -> str:
    """The error that ``ask`` gives a user without rights, to whom permissions mean something."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(120)  # the end of a child that waits for ever: it then tells nothing
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            ask()
            os.write(writer, b"nothing")
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as told:
        return told.read()
