"""What has to hold of artifacts, tiles and the archive on a server that speaks S3: `make test-s3` runs those tests on moto's.

    python -m tests.s3 .venv-s3/bin/moto_server [more of pytest's arguments]

moto has a virtual environment of its own: it brings forty packages, none of them the product's. Without a server named in
`SLUICEGATE_TEST_S3` (another one with a bucket `sluicegate` will do) the tests are skipped. Ends only the server it started.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid

import httpx
import pytest

SERVER = "SLUICEGATE_TEST_S3"
BUCKET = "sluicegate"
LIMIT_S = 60.0
FILES = ("tests/unit/test_artifacts.py", "tests/unit/test_log_tree.py", "tests/unit/test_archive.py")


def new_prefix(patch: pytest.MonkeyPatch) -> str:
    """The url of an empty place on the server, with credentials for it. Skips the test where there is none."""
    if SERVER not in os.environ:
        pytest.skip(f"{SERVER} names no s3 server with a bucket `{BUCKET}`: make test-s3")
    for name, value in {
        "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "REGION": "us-east-1", "ENDPOINT": os.environ[SERVER], "ALLOW_HTTP": "true",
    }.items():  # fmt: skip
        patch.setenv(f"AWS_{name}", value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def free_port() -> int:
    """A port nobody has now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Make the bucket, as soon as the server answers."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            httpx.put(f"{url}/{BUCKET}").raise_for_status()
            return
        except httpx.TransportError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server at {url} does not answer: {error}") from error
            time.sleep(0.1)


def main() -> int:
    """Run the tests; pytest's exit code."""
    command, *more = sys.argv[1:]
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([command, "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        wait_for(url, server)
        words = [sys.executable, "-m", "pytest", "-q", "-k", "s3", *FILES, *more]
        return subprocess.run(words, env={**os.environ, SERVER: url}, check=False).returncode
    finally:
        server.terminate()
        server.wait(LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
