"""Variables whose names say so are masked."""

from __future__ import annotations

import pytest

from descartesd.wire.agent import AgentSpec
from descartesd.wire.masking import is_secret, shown


@pytest.mark.parametrize(
    "name",
    [
        *("API_KEY", "ANTHROPIC_API_KEY", "KEY", "SSH_KEYS", "GITHUB_TOKEN", "githubtoken"),
        *("AWS_SECRET_ACCESS_KEY", "MY_SECRET", "DB_PASSWORD", "MYSQL_PWD", "PGPASS_PASSWD"),
        *("GOOGLE_CREDENTIALS", "OPENAI_APIKEY", "token", "KEY_FILE", "PASSPHRASE"),
        *("SSHPASS", "SSH_PRIVATEKEY", "PRIVATEKEY", "COOKIE", "SESSION_COOKIES", "GH_PAT"),
        *("AZURE_PAT_FILE", "DBPASS", "JWT", "ID_JWT", "HTTP_BEARER", "ACCESSKEY", "HOSTKEY"),
    ],
)
def test_a_secret_is_told_by_a_word_of_its_name(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("HOME", "PATH", "PWD", "OLDPWD", "KEYBOARD", "MONKEY", "PASSENGER", "TOKENIZER_X"),
        *("PAT", "PATH_X", "COMPASS", "BYPASS_CACHE", "A_PATTERN", "COOKIECUTTER"),
    ],
)
def test_other_names_are_shown(name: str) -> None:
    assert not is_secret(name)


def test_a_spec_is_shown_with_masks_and_kept_as_it_is() -> None:
    spec = AgentSpec(command=["x"], env={"API_KEY": "planted", "MODE": "fast"})

    assert shown(spec).env == {"API_KEY": "***", "MODE": "fast"}
    assert spec.env["API_KEY"] == "planted"
    assert "planted" not in repr(spec)
    plain = AgentSpec(command=["x"], env={"MODE": "fast"})
    assert shown(plain) is plain
