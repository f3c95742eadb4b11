"""The two walls before an engine on this machine: no page in a browser, and no caller without its key.

This file imports only the standard library and botocore. The lab imports it as a module; the programs in
embedded_server/ and localstack_server/, which know nothing of the lab, load it by its path.

The first wall reads the method, the target and the headers of a request, before any of its body. It refuses a
Host that is not this machine's, an Origin or Sec-Fetch-Site of another site, and every preflight. The second
wall verifies AWS Signature Version 4, and the older query signature that boto3 presigns S3's URLs with, for
the access keys that the engine has issued. botocore computes the signatures.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from types import SimpleNamespace
from typing import Any
from urllib.parse import SplitResult, unquote
from xml.sax.saxutils import escape

from botocore.auth import HmacV1QueryAuth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials as Signer

HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""The names of this machine by which an engine may be called."""
SIGNED_HOST = "x-lab-signed-host"
"""The header by which a proxy on this machine names the host that its caller signed."""
SIGNABLE = re.compile(rf"({'|'.join(map(re.escape, HOSTS))}):\d{{1,5}}", re.ASCII)
"""The hosts that it may name."""
CONTROL = re.compile(r"/*(_[^/]*|health)(/|$)")
"""The paths of an emulator's own endpoints, such as /_ministack/reset: those of no AWS service."""
SKEW = timedelta(minutes=15)
"""How far the time of a signature may be from now (as S3 and SQS allow, signing guide, 2026-11-30)."""
LONGEST_PRESIGNED = 7 * 24 * 3600
"""The longest that a presigned URL may be valid (seconds; signing guide, 2026-11-30)."""
UNHASHED = re.compile(r"UNSIGNED-PAYLOAD|STREAMING-[A-Z0-9-]+")
"""What stands in place of a body's hash where the signature does not cover the body."""
LISTING = {
    *("continuation-token", "delimiter", "encoding-type", "fetch-owner", "list-type", "marker", "max-keys"),
    *("max-uploads", "part-number-marker", "prefix", "start-after", "upload-id-marker", "version-id-marker"),
    *("key-marker", "max-parts", "x-id"),
}
"""What S3 lists by, which the older query signature does not cover."""
SIGNING = {
    *("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires", "x-amz-signedheaders"),
    *("x-amz-signature", "awsaccesskeyid", "signature", "expires"),
}
"""The parameters of a presigned URL that say who signed it and until when, in lower case."""
FORMS = ("application/x-www-form-urlencoded", "multipart/")
"""The beginnings of the content types in which an emulator looks for an action of any service."""
SHOWN = 100
"""How many characters of a foreign value a refusal repeats."""
HOW = 'run `eval "$(./lab engine env)"` in the checkout that started the engine to get its credentials'
REGION = "us-east-1"
"""The region in which the lab calls engines on this machine."""
KEY = re.compile(r"LAB(\d{5})[A-Z2-7]{12}")
"""The access keys that the lab makes, with the port of their engine. No key of AWS looks like one."""

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Credentials:
    """An access key and its secret for the engine at one port.

    Attributes:
        access_key: The public half, which names the engine's port.
        secret_key: The secret half, which only signs and is never sent.
    """

    access_key: str
    secret_key: str = field(repr=False)

    @classmethod
    def generate(cls, port: int) -> Credentials:
        """Make new credentials for the engine at this port."""
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
        tail = "".join(secrets.choice(alphabet) for _ in range(12))
        return cls(f"LAB{port:05}{tail}", secrets.token_urlsafe(30))

    @property
    def port(self) -> int | None:
        """The port of the engine that these are for, or None where the lab did not make them."""
        made = KEY.fullmatch(self.access_key)
        return int(made[1]) if made else None

    def variables(self) -> dict[str, str]:
        """Return the environment variables by which boto3 and the AWS CLI sign with these."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_SESSION_TOKEN": "",  # that of other credentials would be sent along
        }

    def sign(self, method: str, url: str) -> dict[str, str]:
        """Sign a request without a body, such as one to a control endpoint, and return its headers."""
        request = AWSRequest(method=method, url=url)
        SigV4Auth(Signer(self.access_key, self.secret_key), "lab", REGION).add_auth(request)
        return dict(request.headers.items())

    def presign(self, method: str, url: str) -> str:
        """Presign a URL with any body, for the longest time that there is."""
        request = AWSRequest(method=method, url=url)
        signer = Signer(self.access_key, self.secret_key)
        S3SigV4QueryAuth(signer, "s3", REGION, expires=LONGEST_PRESIGNED).add_auth(request)
        return str(request.url)


class Refusal(Exception):
    """A request that an engine does not serve.

    Args:
        code: The error code as AWS's SDKs know it.
        message: A sentence with the value, the rule and the remedy.
    """

    status = 403

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def answer(self, headers: Headers = ()) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Return the headers and the body of the answer, in the format of the service that was called.

        Args:
            headers: The headers of the request.
        """
        lines = {name.lower(): value for name, value in headers}
        signed = lines.get(b"authorization", b"").partition(b"Credential=")[2].split(b"/")
        code, told = self.code, str(self)
        kind = b"text/xml"
        if signed[3:4] == [b"s3"]:
            error = f"<Error><Code>{code}</Code><Message>{escape(told)}</Message></Error>"
        elif lines.get(b"content-type", b"").startswith(b"application/x-www-form-urlencoded"):
            error = f"<Code>{code}</Code><Message>{escape(told)}</Message>"
            error = f"<ErrorResponse><Error><Type>Sender</Type>{error}</Error></ErrorResponse>"
        else:
            kind, error = b"application/json", json.dumps({"__type": code, "message": told})
        body = error.encode()
        return [
            (b"content-type", kind),
            (b"content-length", str(len(body)).encode()),
            (b"x-amzn-errortype", code.encode()),
            (b"x-content-type-options", b"nosniff"),
        ], body


class Fields:
    """The headers of a request by lower-case name, as botocore's signer reads them."""

    def __init__(self, raw: Headers) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in raw:
            self._values.setdefault(name.decode("latin-1").lower(), []).append(_text(value))

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def __getitem__(self, name: str) -> str:
        return ",".join(self._values[name.lower()])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def get_all(self, name: str) -> list[str]:
        """Return every value of the header with this name."""
        return self._values.get(name.lower(), [])

    def as_signed(self) -> Fields:
        """Return these headers with the host that the caller signed, where a proxy has sent them on.

        Raises:
            Refusal: That host is not of this machine.
        """
        hosts = self.get_all(SIGNED_HOST)
        if not hosts:
            return self
        if len(hosts) != 1 or not SIGNABLE.fullmatch(hosts[0]):
            raise Refusal(
                "AccessDenied",
                f"{SIGNED_HOST} {', '.join(map(_shown, hosts))}: must be one of {', '.join(HOSTS)} with a "
                "port; send the request without it",
            )
        fields = Fields(())
        fields._values = self._values | {"host": hosts}
        return fields

    def only(self, names: Iterable[str]) -> Fields:
        """Return the headers with these names."""
        chosen = Fields(())
        chosen._values = {name: self._values.get(name, []) for name in names}
        return chosen


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


class Pages:
    """The wall against pages in a browser, at one port.

    Args:
        port: Where the engine listens.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.hosts = {f"{host}:{port}" for host in HOSTS}
        if port == 80:
            self.hosts |= set(HOSTS)

    def check(self, method: str, target: str, headers: Fields) -> None:
        """Refuse a request that a page of another site may have made.

        Args:
            method: The HTTP method.
            target: The request target as it was sent, with its query.
            headers: All headers of the request.

        Raises:
            Refusal: The request names another host, comes from another site, is a preflight, or is addressed
                as to a proxy.
        """
        hosts = headers.get_all("host")
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            given = ", ".join(map(_shown, hosts)) or "missing"
            names = ", ".join(f"{host}:{self.port}" for host in HOSTS)
            raise Refusal(
                "AccessDenied",
                f"Host {given}: must be one of {names}; call this engine by one of these addresses, and its "
                "buckets by their path (S3 addressing style `path`)",
            )
        for origin in headers.get_all("origin"):
            if origin != f"http://{hosts[0]}":
                raise Refusal(
                    "AccessDenied",
                    f"Origin {_shown(origin)}: pages of other sites may not call this engine; call it from "
                    "a program, such as boto3 or the AWS CLI",
                )
        for site in headers.get_all("sec-fetch-site"):
            if site not in ("same-origin", "none"):
                raise Refusal(
                    "AccessDenied",
                    f"Sec-Fetch-Site {_shown(site)}: pages of other sites may not call this engine; call it "
                    "from a program, such as boto3 or the AWS CLI",
                )
        asked = [name for name in headers if name.startswith("access-control-")]
        if method == "OPTIONS" or asked:
            raise Refusal(
                "AccessDenied",
                f"{asked[0] if asked else method}: this engine answers no CORS preflight; call it from a "
                "program, such as boto3 or the AWS CLI",
            )
        if not target.startswith("/") or "#" in target or not target.isascii():
            raise Refusal(
                "AccessDenied",
                f"target {_shown(target)}: must be a path and a query in ASCII, as this engine is no proxy; "
                "send the path alone",
            )


@dataclass(frozen=True)
class Signature:
    """The signature of a request whose body may be still to come.

    Attributes:
        needs_body: Whether the body has to be checked, by `verify`.
    """

    needs_body: bool
    _verify: Callable[[bytes], None]

    def verify(self, body: bytes) -> None:
        """Refuse a body that is not what was signed.

        Args:
            body: The whole body as it was sent.

        Raises:
            Refusal: The body is another, or the signature is not that of the key's secret.
        """
        self._verify(body)


class Guard(Pages):
    """Both walls before an engine.

    Args:
        port: Where the engine listens.
        secret_of: Returns the secret of an access key that the engine has issued, or None.
        any_credentials: Serve AWS calls however they are signed. Control endpoints stay closed.
    """

    def __init__(
        self, port: int, secret_of: Callable[[str], str | None], any_credentials: bool = False
    ) -> None:
        super().__init__(port)
        self.secret_of = secret_of
        self.any_credentials = any_credentials

    def admit(self, method: str, target: str, raw: Headers) -> Signature:
        """Check a request by its head, and return what is left to check of it.

        Args:
            method: The HTTP method.
            target: The request target as it was sent, with its query.
            raw: All headers of the request.

        Raises:
            Refusal: The request comes from another site, is not signed, or by a key or with a signature that
                is not this engine's.
        """
        headers = Fields(raw)
        self.check(method, target, headers)
        headers = headers.as_signed()
        path, _, query = target.partition("?")
        query = query.replace("+", "%20")  # as the engines read it
        if self.any_credentials and not CONTROL.match(unquote(path)):
            return Signature(False, _nothing)
        pairs = _pairs(query)
        names = {name for name, _ in pairs}
        presigned, presigned_v2 = "X-Amz-Signature" in names, "Signature" in names
        if len(headers.get_all("authorization")) + presigned + presigned_v2 != 1:
            raise Refusal(
                "MissingAuthenticationToken",
                f"{method} {_shown(path)}: the request must have exactly one signature; sign it with the "
                f"engine's credentials: {HOW}",
            )
        signing = [name.lower() for name, _ in pairs if name.lower() in SIGNING]
        if len(signing) > len(set(signing)):
            raise _twice("query", signing)
        if presigned_v2:
            return self._presigned_v2(method, path, query, dict(pairs), headers)
        if presigned:
            return self._presigned(method, path, pairs, headers)
        return self._signed(method, path, pairs, headers)

    def _signed(self, method: str, path: str, pairs: list[tuple[str, str]], headers: Fields) -> Signature:
        algorithm, _, rest = headers["authorization"].partition(" ")
        named = [part.strip().partition("=")[::2] for part in rest.split(",")]
        parts = dict(named)
        if len(parts) < len(named) or rest.count("Credential=") > 1:
            raise _twice("Authorization", [name for name, _ in named])
        scope = Scope.read(algorithm, parts.get("Credential", ""), headers.get_all("x-amz-date"))
        secret = self._secret(scope)
        self._in_time(scope, SKEW)
        hashes = headers.get_all("x-amz-content-sha256")
        request = _request(method, path, pairs, _signed_headers(parts.get("SignedHeaders", ""), headers))
        given = parts.get("Signature", "")

        def verify(body: bytes) -> None:
            request.body = body
            _match(scope, secret, request, given)

        if not hashes:
            return Signature(True, verify)
        verify(b"")  # the header stands for the body
        if UNHASHED.fullmatch(hashes[0]):
            return Signature(False, _nothing)

        def verify_hash(body: bytes) -> None:
            if not hmac.compare_digest(sha256(body).hexdigest().encode(), hashes[0].encode()):
                raise Refusal(
                    "XAmzContentSHA256Mismatch",
                    f"x-amz-content-sha256 {_shown(hashes[0])}: is not the hash of the body that came; send "
                    "the body that was signed",
                )

        return Signature(True, verify_hash)

    def _presigned(self, method: str, path: str, pairs: list[tuple[str, str]], headers: Fields) -> Signature:
        named = dict(pairs)
        scope = Scope.read(
            named.get("X-Amz-Algorithm", ""), named.get("X-Amz-Credential", ""), [named.get("X-Amz-Date", "")]
        )
        secret = self._secret(scope)
        self._in_time(scope, timedelta(seconds=_seconds(named.get("X-Amz-Expires", ""))))
        rest = [pair for pair in pairs if pair[0] != "X-Amz-Signature"]
        request = _request(method, path, rest, _signed_headers(named.get("X-Amz-SignedHeaders", ""), headers))
        if scope.service == "s3":
            _no_call(headers)
            request.payload = "UNSIGNED-PAYLOAD"
            _match(scope, secret, request, named["X-Amz-Signature"])
            return Signature(False, _nothing)

        def verify(body: bytes) -> None:
            request.body = body
            _match(scope, secret, request, named["X-Amz-Signature"])

        return Signature(True, verify)

    def _presigned_v2(
        self, method: str, path: str, query: str, named: dict[str, str], headers: Fields
    ) -> Signature:
        scope = Scope(named.get("AWSAccessKeyId", ""), "", "", "s3", "")
        secret = self._secret(scope)
        until = named.get("Expires", "")
        if not re.fullmatch(r"\d{1,12}", until, re.ASCII) or int(until) < datetime.now(UTC).timestamp():
            raise Refusal(
                "AccessDenied", f"Expires {_shown(until)}: the presigned URL has expired; make a new one"
            )
        _no_call(headers)
        covered = HTTPHeaders()
        for name, value in [*named.items(), *((name, headers[name]) for name in headers)]:
            if name.startswith("x-amz-") or name in ("content-md5", "content-type"):
                del covered[name]  # boto3 writes them into the query; of two the header counts
                covered[name] = value
        parts = set(HmacV1QueryAuth.QSAOfInterest)
        known = {"AWSAccessKeyId", "Expires", "Signature", *parts, *LISTING, *covered} - SIGNING
        sent = [part.partition("=")[0] for part in query.split("&") if part]
        for name in sent:
            # What is signed joins decoded values by "&" and line ends, and looks names up as they were sent.
            joined = name in known and ("\n" in named[name] or (name in parts and "&" in named[name]))
            if name not in known or sent.count(name) > 1 or joined:
                raise Refusal(
                    "SignatureDoesNotMatch",
                    f"query {_shown(name)}: is not covered by this presigned URL, or not in one reading "
                    "only; presign it anew, with signature_version='s3v4'",
                )
        if path.count("/") == 1:
            path = f"{path.rstrip('/')}/"  # as a bucket is signed
        signer = _SigV2(Signer(scope.access_key, secret), until)
        computed = signer.get_signature(method, SplitResult("http", "", path, query, ""), covered)
        if not hmac.compare_digest(str(computed).encode(), named["Signature"].encode()):
            raise _mismatch(scope)
        return Signature(False, _nothing)

    def _secret(self, scope: Scope) -> str:
        if (secret := self.secret_of(scope.access_key)) is None:
            raise Refusal(
                "UnrecognizedClientException",
                f"access key {_shown(scope.access_key)}: is not one of this engine's; {HOW}",
            )
        return secret

    @staticmethod
    def _in_time(scope: Scope, valid: timedelta) -> None:
        now = datetime.now(UTC)
        if not scope.signed_at - SKEW <= now <= scope.signed_at + valid:
            raise Refusal(
                "RequestExpired",
                f"date {_shown(scope.timestamp)}: the signature is not valid now, at "
                f"{now:%Y%m%dT%H%M%SZ}; set the clock right, and sign the request anew",
            )


@dataclass(frozen=True)
class Scope:
    """The credential scope of a signature.

    Attributes:
        access_key: The key that signed.
        timestamp: When it signed, as YYYYMMDDTHHMMSSZ.
        region: The region that was called.
        service: The service that was called.
        algorithm: The algorithm that signed.
    """

    access_key: str
    timestamp: str
    region: str
    service: str
    algorithm: str

    @classmethod
    def read(cls, algorithm: str, credential: str, dates: list[str]) -> Scope:
        """Read a scope such as KEY/20261130/us-east-1/sqs/aws4_request.

        Raises:
            Refusal: The algorithm, the scope or the date is not that of Signature Version 4.
        """
        parts = credential.split("/")
        date = dates[0] if len(dates) == 1 else ""
        if algorithm != "AWS4-HMAC-SHA256" or len(parts) != 5 or parts[4] != "aws4_request":
            raise Refusal(
                "IncompleteSignature",
                f"signature {_shown(f'{algorithm} {credential}')}: must be AWS4-HMAC-SHA256 with a "
                "credential KEY/DATE/REGION/SERVICE/aws4_request; sign with Signature Version 4",
            )
        if not re.fullmatch(r"\d{8}T\d{6}Z", date, re.ASCII) or date[:8] != parts[1]:
            raise Refusal(
                "IncompleteSignature",
                f"X-Amz-Date {_shown(date)}: must be one YYYYMMDDTHHMMSSZ on the day of the credential, "
                f"{_shown(parts[1])}; sign the request anew",
            )
        scope = cls(parts[0], date, parts[2], parts[3], algorithm)
        try:
            _ = scope.signed_at
        except ValueError as error:
            raise Refusal("IncompleteSignature", f"X-Amz-Date {_shown(date)}: is no date ({error})") from None
        return scope

    @property
    def signed_at(self) -> datetime:
        """When the request was signed."""
        return _moment(self.timestamp)


@lru_cache(maxsize=64)
def _moment(timestamp: str) -> datetime:
    return datetime.strptime(timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


@lru_cache(maxsize=64)
def _signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


class _SigV4(SigV4Auth):  # type: ignore[misc]
    """The signature of exactly those headers that the caller signed."""

    def headers_to_sign(self, request: Any) -> Any:
        """Return the headers that the caller signed; botocore would choose them itself."""
        return request.headers

    def payload(self, request: Any) -> Any:
        """Return the hash of the body, or what stands for it."""
        return request.payload or sha256(request.body).hexdigest()

    def signature(self, string_to_sign: str, request: Any) -> str:
        """Return the signature in hexadecimal digits, by a signing key that is derived once a day."""
        date = request.context["timestamp"][:8]
        key = _signing_key(self.credentials.secret_key, date, self._region_name, self._service_name)
        return hmac.digest(key, string_to_sign.encode(), "sha256").hex()

    def _normalize_url_path(self, path: str) -> Any:
        # S3 signs the path as it is: its keys may have dots and empty parts.
        return path if self._service_name == "s3" else super()._normalize_url_path(path)


class _SigV2(HmacV1QueryAuth):  # type: ignore[misc]
    """The query signature that boto3 presigns S3's URLs with, where no version is configured."""

    def _get_date(self) -> Any:
        return self._expires  # as it was sent; botocore would count from now


def _no_call(headers: Fields) -> None:
    """Refuse the unsigned body of a presigned URL of S3 in which an emulator would find another call.

    A form names an action. AWS's chunks end with headers, by which ministack routes as by those of the head.
    """
    if any(kind.strip().lower().startswith(FORMS) for kind in headers.get_all("content-type")):
        raise Refusal(
            "AccessDenied",
            "Content-Type: a presigned URL of S3 takes no form; send the object with another type",
        )
    if (
        any("aws-chunked" in encoding.lower() for encoding in headers.get_all("content-encoding"))
        or any(hashed.startswith("STREAMING-") for hashed in headers.get_all("x-amz-content-sha256"))
        or "x-amz-decoded-content-length" in headers
    ):
        raise Refusal(
            "AccessDenied",
            "Content-Encoding aws-chunked: a presigned URL of S3 takes no chunks of AWS's; send the object "
            "as it is",
        )


def _nothing(body: bytes) -> None:
    """Leave a body unchecked."""


def _pairs(query: str) -> list[tuple[str, str]]:
    """Split a query into names and values, and decode them."""
    return [
        (unquote(name), unquote(value))
        for name, _, value in (p.partition("=") for p in query.split("&") if p)
    ]


def _seconds(expires: str) -> int:
    if not re.fullmatch(r"\d{1,6}", expires, re.ASCII) or not 0 < int(expires) <= LONGEST_PRESIGNED:
        raise Refusal(
            "AuthorizationQueryParametersError",
            f"X-Amz-Expires {_shown(expires)}: must be from 1 to {LONGEST_PRESIGNED} seconds; presign anew",
        )
    return int(expires)


def _signed_headers(names: str, headers: Fields) -> Fields:
    """Choose the headers that were signed, once those that decide what is done are among them."""
    chosen = names.split(";")
    missing = [
        name for name in headers if (name == "host" or name.startswith("x-amz-")) and name not in chosen
    ]
    if missing or not all(name in headers for name in chosen):
        raise Refusal(
            "SignatureDoesNotMatch",
            f"SignedHeaders {_shown(names)}: must be headers of the request, with its host and all x-amz-*"
            f"{f' ({missing[0]} is not signed)' if missing else ''}; sign the request anew",
        )
    return headers.only(chosen)


def _request(method: str, path: str, pairs: list[tuple[str, str]], headers: Fields) -> SimpleNamespace:
    """The request as botocore's signer reads one."""
    return SimpleNamespace(
        method=method, url=f"http://engine{path}", params=pairs, headers=headers, body=b"", payload=None
    )


def _match(scope: Scope, secret: str, request: Any, given: str) -> None:
    """Refuse a request whose signature is not the given one."""
    signer = _SigV4(Signer(scope.access_key, secret), scope.service, scope.region)
    request.context = {"timestamp": scope.timestamp}
    text = signer.string_to_sign(request, signer.canonical_request(request))
    if not hmac.compare_digest(signer.signature(text, request).encode(), given.encode()):
        raise _mismatch(scope)


def _twice(where: str, names: list[str]) -> Refusal:
    """The refusal of a signature whose parts an engine may read otherwise than the guard does."""
    return Refusal(
        "IncompleteSignature",
        f"{where} {_shown(', '.join(names))}: must name each part of the signature once; sign the request "
        "anew",
    )


def _mismatch(scope: Scope) -> Refusal:
    return Refusal(
        "SignatureDoesNotMatch",
        f"access key {_shown(scope.access_key)}: the signature is not that of this request by this key's "
        f"secret; {HOW}",
    )
