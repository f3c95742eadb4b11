"""No credential goes to an endpoint that is set in place of AWS's before it was shown and confirmed."""

import hashlib
import io
import json
import os
import socketserver
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
import typer

from helpers import budget, cli
from helpers.engines import aws, connect
from helpers.engines.aws import Aws
from helpers.errors import EngineError

KEY, SECRET = "AKIAPLANTED", "wJalrXUtnFEMI/K7MDENG/bPlantedSECRETkey"
START_URL = "https://planted.awsapps.com/start"
BEARER = "planted-sign-in-token"
ROLE = f"role_arn = arn:aws:iam::000000000000:role/other\n{{source}}\naws_access_key_id = {KEY}\n"
ROLE += f"aws_secret_access_key = {SECRET}\n"


class Listener(socketserver.ThreadingTCPServer):
    """A server that keeps every byte sent to it, and answers each request with status 400."""

    daemon_threads = True
    heard = b""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Keeper)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Keeper(socketserver.BaseRequestHandler):
    """One connection of a Listener."""

    def handle(self) -> None:
        length = 0
        body = self.request.makefile("rb")
        for line in iter(body.readline, b"\r\n"):  # the body may come in a packet of its own
            self.server.heard += line
            if not line:
                return
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        self.server.heard += body.read(length)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.fixture
def listener(tmp_path, monkeypatch):
    """A Listener; the environment has credentials and a region, and no profile or endpoint yet."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "LAB_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        aws.BUDGET: "0",
        budget.LEDGER: str(tmp_path / "ledger.jsonl"),
    }.items():
        monkeypatch.setenv(name, value)
    with Listener() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def nobody_else(monkeypatch) -> None:
    """Who the caller is is not asked, so that nothing is sent to AWS."""
    monkeypatch.setattr(
        Aws, "_caller", lambda self: ("arn:aws:iam::000000000000:user/planted", "000000000000")
    )


VARIABLES = {
    "AWS_ENDPOINT_URL": "every service",
    "AWS_ENDPOINT_URL_STS": "sts",
    "AWS_ENDPOINT_URL_SFN": "stepfunctions",
    "AWS_ENDPOINT_URL_S3": "s3",
    "AWS_ENDPOINT_URL_RESOURCE_GROUPS_TAGGING_API": "resourcegroupstaggingapi",
    "AWS_ENDPOINT_URL_SSO": "sso",
    "AWS_ENDPOINT_URL_SSO_OIDC": "sso-oidc",
    "AWS_ENDPOINT_URL_SIGNIN": "signin",
}


@pytest.mark.parametrize(("variable", "service"), VARIABLES.items())
def test_a_variable_s_endpoint_is_refused_by_name(listener, monkeypatch, variable, service):
    """Value, variable, service and remedy are told; nothing is sent, by Python or by `lab --yes`."""
    monkeypatch.setenv(variable, f"{listener.url}/")
    with pytest.raises(EngineError) as refused:
        connect("aws", budget_usd=0)
    for words in (f"endpoint '{listener.url}'", f"set by {variable})", "--endpoint", f"{aws.CONFIRMED}="):
        assert words in str(refused.value)
    assert service in str(refused.value)
    assert lab(monkeypatch, "destroy", "--all", "--engine", "aws", "--yes") == 2
    assert listener.heard == b""


PROFILES = {
    "endpoint": "[profile other]\nendpoint_url = {url}\n",
    "services": "[profile other]\nservices = mine\n[services mine]\nsqs =\n  endpoint_url = {url}\n",
    "role": f"[profile other]\nendpoint_url = {{url}}\n{ROLE.format(source='source_profile = other')}",
}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_profile_s_endpoint_is_refused_by_its_file(listener, monkeypatch, tmp_path, profile, how):
    """However the profile is chosen, and whatever would be fetched from STS for it; nothing is sent."""
    (tmp_path / "config").write_text(PROFILES[profile].format(url=listener.url))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    if how == "variable":
        monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(EngineError, match=f"endpoint '{listener.url}'.*set by {tmp_path / 'config'}"):
        connect("aws", profile="other" if how == "option" else None)
    assert listener.heard == b""


@pytest.mark.parametrize("source", ["role", "web identity", "single sign-on"])
def test_credentials_are_not_even_fetched_from_an_endpoint_that_is_not_confirmed(
    listener, monkeypatch, tmp_path, source
):
    """Sources that call STS or the sign-on portal send key or token only after the confirmation."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    token = tmp_path / "token"
    token.write_text(BEARER)
    role = "role_arn = arn:aws:iam::000000000000:role/other\n"
    profiles = {
        "role": ROLE.format(source="source_profile = other"),
        "web identity": f"{role}web_identity_token_file = {token}\n",
        "single sign-on": f"sso_start_url = {START_URL}\nsso_region = us-east-1\n"
        "sso_account_id = 000000000000\nsso_role_name = other\n",
    }
    (tmp_path / "config").write_text(f"[profile other]\n{profiles[source]}")
    kept = tmp_path / ".aws" / "sso" / "cache" / f"{hashlib.sha1(START_URL.encode()).hexdigest()}.json"
    kept.parent.mkdir(parents=True)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    kept.write_text(
        json.dumps(
            {"startUrl": START_URL, "region": "us-east-1", "accessToken": BEARER, "expiresAt": tomorrow}
        )
    )
    service = "SSO" if source == "single sign-on" else "STS"
    environment = os.environ | {"HOME": str(tmp_path), f"AWS_ENDPOINT_URL_{service}": listener.url}

    def connected(*options: str) -> str:
        program = f"from helpers import connect; connect('aws', profile='other', {', '.join(options)})"
        ran = subprocess.run(
            [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True
        )
        return ran.stderr

    assert "is not AWS's own" in connected()
    assert listener.heard == b""
    connected(f"endpoint='{listener.url}'")
    assert (KEY if source == "role" else BEARER).encode() in listener.heard


def test_what_is_confirmed_gets_the_call(listener, monkeypatch, capsys):
    """Named by option or variable the endpoint is told, and then called with the credentials."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", listener.url)
    for given in ("option", "variable"):
        listener.heard = b""
        monkeypatch.setenv(aws.CONFIRMED, listener.url if given == "variable" else "")
        with pytest.raises(EngineError, match="does not say who is asking"):
            connect("aws", endpoint=f"{listener.url}/" if given == "option" else None)
        assert f"confirmed endpoint '{listener.url}' (for sts" in capsys.readouterr().err
        assert f"Credential={KEY}".encode() in listener.heard


def test_only_what_is_named_is_confirmed(listener, monkeypatch):
    """One endpoint's confirmation is no other's, and one that no service is configured for is refused."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", listener.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
    with pytest.raises(EngineError, match=r"endpoint 'http://127\.0\.0\.1:9'"):
        connect("aws", endpoint=listener.url)
    monkeypatch.delenv("AWS_ENDPOINT_URL_STS")
    with pytest.raises(EngineError, match=r"endpoint='http://127\.0\.0\.1:9': no service is configured"):
        connect("aws", endpoint=f"{listener.url},http://127.0.0.1:9")
    assert listener.heard == b""


def test_another_process_knows_what_was_confirmed(listener, monkeypatch, nobody_else):
    """Notebooks and fleets of a run are asked no second time; nor do they confirm more."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", listener.url)
    engine = connect("aws", endpoint=listener.url)
    assert engine.flags() == f"--engine aws --endpoint {listener.url} --region us-east-1"
    assert engine.shared()[aws.CONFIRMED] == listener.url
    assert engine.fleet_environment()[aws.CONFIRMED] == listener.url
    for name, value in engine.shared().items():
        monkeypatch.setenv(name, value)
    connect("aws")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(EngineError, match=r"endpoint 'http://127\.0\.0\.1:9'"):
        connect("aws")


def test_a_client_made_later_is_checked_too(listener, monkeypatch, nobody_else):
    """A service that the lab never calls, or a variable set since, is refused with its first client."""
    engine = connect("aws")
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", listener.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", listener.url)
    for service in ("kinesis", "sqs"):
        with pytest.raises(EngineError, match=f"endpoint '{listener.url}' \\(for {service};"):
            engine.client(service)


def test_aws_s_own_endpoints_need_no_confirmation(listener, monkeypatch, nobody_else):
    """Neither where they are written out, nor where configured ones are ignored."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "https://sts.us-east-1.amazonaws.com/")
    assert connect("aws").endpoint_url == "https://states.us-east-1.amazonaws.com"
    monkeypatch.setenv("AWS_ENDPOINT_URL", listener.url)
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert connect("aws").endpoint_url == "https://states.us-east-1.amazonaws.com"


@pytest.mark.parametrize("url", ["nonsense", "http://", "http://127.0.0.1:port"])
def test_an_endpoint_that_is_no_url_is_refused(listener, monkeypatch, url):
    """The sentence tells which service it was for, and where such a thing is configured."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", url)
    with pytest.raises(EngineError, match=r"sqs.*AWS_ENDPOINT_URL"):
        connect("aws")


def lab(monkeypatch, *arguments: str) -> int:
    """The exit code of `lab` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["lab", *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


@pytest.mark.parametrize("answer", ["y\n", "n\n", ""])
@pytest.mark.parametrize("options", [(), ("--yes",)])
def test_in_a_terminal_one_is_asked_first(listener, monkeypatch, capfd, answer, options):
    """The endpoint is shown and nothing is sent before the answer, and but for yes nothing after it.

    --yes is about the account and answers this question not.
    """
    monkeypatch.setenv("AWS_ENDPOINT_URL", listener.url)
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    heard = []
    confirm = typer.confirm
    monkeypatch.setattr(
        "typer.confirm", lambda *args, **kinds: heard.append(listener.heard) or confirm(*args, **kinds)
    )
    assert lab(monkeypatch, "destroy", "--all", "--engine", "aws", *options) == (2 if answer else 1)
    told = capfd.readouterr().err
    assert told.index(f"not AWS's own endpoint: '{listener.url}' (for every service") < told.index("May your")
    assert heard == [b""]
    assert (f"Credential={KEY}".encode() in listener.heard) is (answer == "y\n")
