"""Where boto, which s3fs calls, would take settings from besides those that it is given.

Credentials are not looked for here: only a store that is given its own is opened natively, and boto looks no
further then. All else that boto may find and that is not known to be harmless keeps a store bridged.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

# Settings that choose credentials, or what command line tools print.
_VARIABLES = (
    "ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|SECURITY_TOKEN|CONFIG_FILE|SHARED_CREDENTIALS_FILE|ROLE_.*"
    "|WEB_IDENTITY_TOKEN_FILE|CONTAINER_.*|CREDENTIAL_.*|EC2_METADATA_.*|METADATA_.*|EXECUTION_ENV|LAMBDA_.*"
    "|DEFAULT_OUTPUT|PAGER"
)
_SETTINGS = (
    "aws_access_key_id|aws_secret_access_key|aws_session_token|credential_process|credential_source|role_.*"
    "|source_profile|web_identity_token_file|external_id|mfa_serial|duration_seconds|sso_.*|output|cli_.*"
)
_FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
# Commercial regions and GovCloud; others are under other domains.
_REGION = re.compile(r"(?!cn-)[a-z]{2}(?:-gov)?-(?:central|(?:north|south)?(?:east|west)?)-[0-9]+")


def is_told_all(*, region: str | None, endpoint: str | None) -> bool:
    """Tell whether boto asks just as its given settings say, whatever else it may find.

    Parameters
    ----------
    region, endpoint : str or None
        Those that boto is given, which hold whatever else names one.
    """
    if endpoint is None and (region is None or not _REGION.fullmatch(region)):
        return False
    variables, settings = [_VARIABLES], [_SETTINGS]
    if region is not None:
        variables.append("(?:DEFAULT_)?REGION")
        settings.append("region")
    if endpoint is not None:
        variables.append("ENDPOINT_URL.*|IGNORE_CONFIGURED_ENDPOINT_URLS")
        settings.append("endpoint_url|ignore_configured_endpoint_urls")
        if endpoint.startswith("http://"):
            variables.append("CA_BUNDLE")
            settings.append("ca_bundle")
    variable = re.compile(f"AWS_(?:{'|'.join(variables)})")
    if any(name.startswith("AWS_") and not variable.fullmatch(name) for name in os.environ):
        return False
    # A section, a comment, nothing, or one of the settings.
    line = re.compile(rf"\s*(?:\[.*|[#;].*|(?:{'|'.join(settings)})\s*[=:].*|)")
    return all(line.fullmatch(text) for text in _lines())


def _lines() -> list[str]:
    """Give the lines of boto's files; one that stands for anything where a file cannot be read."""
    lines = []
    for variable, default in _FILES.items():
        try:
            lines += Path(os.environ.get(variable, default)).expanduser().read_text(errors="replace").splitlines()
        except (FileNotFoundError, RuntimeError):
            # No such file, or no home to look for it in.
            continue
        except OSError:
            lines.append("?")
    return lines
