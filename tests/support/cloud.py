"""GCS and Azure as the range server speaks them, and the keys that they know.

``python -m support.cloud COMMAND ARGUMENT...`` runs a command that finds both through its environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from .range_client import RangeServer
from .web.azure import ACCOUNT, KEY

# The service account that GCS knows.
SERVICE_ACCOUNT = "tests"


def gcs_url(server: RangeServer) -> str:
    """Where GCS is served."""
    return f"{server.url}/gcs"


def azure_url(server: RangeServer) -> str:
    """Where Azure is served, for its one account."""
    return f"{server.url}/azure/{ACCOUNT}"


def serve(server: RangeServer) -> None:
    """Have the server serve both services, with empty buckets, at a new URL."""
    server.serve_cloud(openssl("rsa", "-noout", "-modulus", stdin=rsa_key(SERVICE_ACCOUNT)).partition("=")[2])


def service_account(name: str = SERVICE_ACCOUNT) -> str:
    """Return the key of a service account, as the file that a user downloads; GCS knows that of one name only."""
    return json.dumps({"private_key": rsa_key(name), "private_key_id": name, "client_email": f"{name}@example.invalid"})


@cache
def rsa_key(name: str) -> str:  # noqa: ARG001 - each name has a key of its own
    """Make a private key, once for each name."""
    return openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")


def openssl(*arguments: str, stdin: str = "") -> str:
    """Run ``openssl`` and return what it says."""
    command = ["openssl", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=True, text=True).stdout  # noqa: S603 - ours


def main(command: list[str]) -> int:
    """Run a command while both services are served."""
    with tempfile.TemporaryDirectory() as directory, RangeServer(Path(directory)) as server:
        serve(server)
        environment = {
            "CLOUD_GCS_URL": gcs_url(server),
            "CLOUD_GCS_SERVICE_ACCOUNT": service_account(),
            "CLOUD_AZURE_URL": azure_url(server),
            "CLOUD_AZURE_ACCOUNT": ACCOUNT,
            "CLOUD_AZURE_KEY": KEY,
        }
        return subprocess.run(command, env=os.environ | environment, check=False).returncode  # noqa: S603 - the caller's


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
