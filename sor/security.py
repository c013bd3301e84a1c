"""How a broker is spoken to, and what keeps us from being understood: TLS, the certificate, SASL, each said in one line.

A Kafka client repeats a handshake or a login that can never succeed until its time is up, and says only that no broker
answered. `Security.obstacle` asks first: one connection of its own with the same TLS and, once, the same login. It takes
milliseconds, and an account with a wrong password is tried once and not twenty times.
"""

from __future__ import annotations

import errno
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sor.errors import StreamError, UsageError

CONNECT_S = 3.0  # for a connection, and for the answer on it
NO_SASL_WANTED, UNKNOWN_MECHANISM = 34, 33  # of Kafka's error codes
HANDSHAKE, AUTHENTICATE = 17, 36  # api keys of SaslHandshake and SaslAuthenticate
_ID = 7  # of a request and its answer
_MOST_BYTES = 65_536
# what is there speaks no Kafka, or nothing is there
_NOBODY = (ConnectionRefusedError, TimeoutError, socket.gaierror, ValueError, LookupError, struct.error)


class Password(str):
    """A text that shows itself as dots wherever values are shown for inspection."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'...'"


@dataclass(frozen=True)
class Security:
    """How a broker is spoken to: the protocol, and for SASL and TLS who we are and whose word we take.

    `protocol` is PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL; `mechanism` PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; an empty
    `ca_file` stands for the authorities of the system.
    """

    protocol: str = "PLAINTEXT"
    mechanism: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""

    @property
    def is_tls(self) -> bool:
        """Whether TLS is spoken."""
        return self.protocol.endswith("SSL")

    @property
    def is_sasl(self) -> bool:
        """Whether we say who we are."""
        return self.protocol.startswith("SASL_")

    @property
    def client(self) -> dict[str, object]:
        """The part of a Kafka client's settings."""
        options: dict[str, object] = {"security_protocol": self.protocol}
        if self.is_sasl:
            options |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": Password(self.password),
            }
        return options | ({"ssl_context": self.tls_context()} if self.is_tls else {})

    def tls_context(self) -> ssl.SSLContext:
        """TLS 1.2 or later that takes the word of `ca_file`, or of the system's authorities, for the broker's name.

        Raises
        ------
        UsageError
            If `ca_file` cannot be read, or is no PEM file of certificates.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if not self.ca_file:
            context.load_default_certs()
            return context
        try:
            if Path(self.ca_file).is_fifo():  # may never end
                raise OSError(errno.EINVAL, "it is a pipe")
            context.load_verify_locations(self.ca_file)
        except (ssl.SSLError, OSError) as error:
            found = "holds no certificate" if isinstance(error, ssl.SSLError) else f"cannot be read: {error.strerror}"
            raise UsageError(
                f"kafka_ssl_cafile (KAFKA_SSL_CAFILE) is {self.ca_file!r}, which {found}; it must be a PEM file with the "
                "certificate of the authority that signed the broker's"
            ) from None
        return context

    def obstacle(self, servers: str, login: Callable[[], Login]) -> StreamError | None:
        """Why no broker of `servers` (host:port, comma-separated) lets us in; None where one does, or none answers.

        Parameters
        ----------
        login
            Makes one attempt to log in, of a SASL protocol.

        Raises
        ------
        UsageError
            As `tls_context`.
        """
        context = self.tls_context() if self.is_tls else None
        found = None
        for server in servers.split(","):
            obstacle = self._obstacle(server, context, login)
            if obstacle == "":
                return None
            found = found or obstacle
        return StreamError(found) if found else None

    def _obstacle(self, server: str, context: ssl.SSLContext | None, login: Callable[[], Login]) -> str | None:
        """What is wrong with `server`; empty if nothing is, None if it does not answer at all."""
        try:
            with Conversation(server, context) as talk:
                code, mechanisms = talk.ask_mechanism(self.mechanism)
                if code == 0 and self.is_sasl:
                    return self._not_let_in(server) if talk.refuses(login()) else ""
        except ssl.SSLCertVerificationError as error:
            return self._untrusted(server, error)
        except _NOBODY:
            return None
        except OSError as error:
            return self._misunderstood(server, error)
        return self._mismatch(server, code, mechanisms)

    def _not_let_in(self, server: str) -> str:
        return (
            f"the broker at {server} does not accept user {self.username!r} with this password ({self.mechanism}): "
            "set KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
        )

    def _untrusted(self, server: str, error: ssl.SSLCertVerificationError) -> str:
        """The certificate is not accepted."""
        if error.verify_code in (62, 64):  # the host name, the address
            return (
                f"the certificate of the broker at {server} is not for this name ({error.verify_message}): "
                "set KAFKA_BOOTSTRAP_SERVERS to a name that the certificate holds"
            )
        source = f"KAFKA_SSL_CAFILE is {self.ca_file!r}" if self.ca_file else "KAFKA_SSL_CAFILE is empty"
        return (
            f"the certificate of the broker at {server} is not trusted ({error.verify_message}; {source}): "
            "set KAFKA_SSL_CAFILE to the PEM file of the authority that signed it"
        )

    def _misunderstood(self, server: str, error: OSError) -> str | None:
        """The connection ended without an answer: does the listener speak TLS where we do not, or the other way round?"""
        other = None if self.is_tls else unverified_context()
        try:
            with Conversation(server, other) as talk:
                talk.ask_mechanism("")
        except (OSError, *_NOBODY):
            if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
                return f"TLS with the broker at {server} failed: {error.reason or error}"
            return None
        speaks, wanted = ("no TLS", "PLAINTEXT or SASL_PLAINTEXT") if self.is_tls else ("TLS only", "SSL or SASL_SSL")
        return (
            f"the broker at {server} speaks {speaks}, and KAFKA_SECURITY_PROTOCOL is {self.protocol}: set it to {wanted}, "
            "or KAFKA_BOOTSTRAP_SERVERS to another listener"
        )

    def _mismatch(self, server: str, code: int, mechanisms: list[str]) -> str:
        """What the broker's answer to our way of logging in says."""
        layer = "SSL" if self.is_tls else "PLAINTEXT"
        offered = ", ".join(mechanisms)
        if code == NO_SASL_WANTED and self.is_sasl:
            wanted = f"KAFKA_SECURITY_PROTOCOL to {layer}, without user and password"
            return f"the broker at {server} asks for no login, and KAFKA_SECURITY_PROTOCOL is {self.protocol}: set {wanted}"
        if code in (0, UNKNOWN_MECHANISM) and not self.is_sasl:
            wanted = f"KAFKA_SECURITY_PROTOCOL to SASL_{layer}, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
            return f"the broker at {server} asks for a login ({offered}): set {wanted}"
        if code == UNKNOWN_MECHANISM:
            return f"the broker at {server} does not offer {self.mechanism}: set KAFKA_SASL_MECHANISM to {offered}"
        return ""


class Login(Protocol):
    """One attempt of a SASL mechanism: what it says, and what it makes of the answers."""

    def is_done(self) -> bool: ...

    def auth_bytes(self) -> bytes: ...

    def receive(self, auth_bytes: bytes) -> object: ...


class Conversation:
    """One connection to a broker on which requests are answered one by one. Use in a `with`.

    Raises
    ------
    OSError
        No connection, no TLS (ssl.SSLError), or no answer that is one; from every method.
    """

    def __init__(self, server: str, context: ssl.SSLContext | None) -> None:
        host, port = server.rsplit(":", 1)
        host = host.strip("[]")
        self._connection = socket.create_connection((host, int(port)), CONNECT_S)
        if context:
            try:
                self._connection = context.wrap_socket(self._connection, server_hostname=host.rstrip("."))
            except (OSError, ValueError):
                self._connection.close()
                raise

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *failure: object) -> None:
        self._connection.close()

    def ask_mechanism(self, mechanism: str) -> tuple[int, list[str]]:
        """The error code of SaslHandshake (version 1) with this mechanism, and the mechanisms the broker offers."""
        name = mechanism.encode()
        answer = self._ask(HANDSHAKE, 1, struct.pack(f">h{len(name)}s", len(name), name))
        code, count = struct.unpack_from(">hi", answer)
        at, mechanisms = 6, []
        for _ in range(count):
            (length,) = struct.unpack_from(">h", answer, at)
            mechanisms.append(answer[at + 2 : at + 2 + length].decode())
            at += 2 + length
        return code, mechanisms

    def refuses(self, login: Login) -> bool:
        """Whether the broker refuses this login (SaslAuthenticate, version 0)."""
        while not login.is_done():
            said = login.auth_bytes()
            answer = self._ask(AUTHENTICATE, 0, struct.pack(f">i{len(said)}s", len(said), said))
            code, length = struct.unpack_from(">hh", answer)
            if code:
                return True
            login.receive(answer[8 + max(length, 0) :])
        return False

    def _ask(self, api_key: int, version: int, body: bytes) -> bytes:
        """What follows the correlation id of an answer."""
        request = struct.pack(">hhih", api_key, version, _ID, -1) + body
        self._connection.sendall(struct.pack(">i", len(request)) + request)
        (length,) = struct.unpack(">i", self._received(4))
        answer = self._received(length) if 4 <= length <= _MOST_BYTES else b""
        if answer[:4] != struct.pack(">i", _ID):
            raise ConnectionError("no answer of a Kafka broker")
        return answer[4:]

    def _received(self, length: int) -> bytes:
        text = b""
        while len(text) < length:
            piece = self._connection.recv(length - len(text))
            if not piece:
                raise ConnectionError("closed without an answer")
            text += piece
        return text


def unverified_context() -> ssl.SSLContext:
    """TLS with whoever is there: to ask whether it is spoken, never to say anything."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
