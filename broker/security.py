"""The secured form of the local Kafka: passwords, an authority and a certificate of its own, and the settings that use them.

All of it is in the folder's `security/`, readable by its owner only. Passwords stand in files and never on a command
line, which every user of a machine can read. Clients speak SASL_SSL with SCRAM-SHA-512, and the broker asks its access
control lists about everything they do. The user `admin` may do anything; `sor` what `allow` of broker/local.py grants.
The controller and ZooKeeper listen on 127.0.0.1 and ask for a password too: else every user of the machine could go
round the lists.
"""

import hashlib
import ipaddress
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from broker.errors import BrokerError

MECHANISM = "SCRAM-SHA-512"
ADMIN, CLIENT = "admin", "sor"
_USERS = (ADMIN, CLIENT, "controller", "zookeeper", "keystore")
_CERTIFICATE_S = 300 * 86_400  # made anew at a start after this; it is valid for 825 days
_QUICK = ("-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC", "-J-Xshare:auto")
_STORE = ("-storetype", "PKCS12", "-storepass:file", "keystore.password")
_KEY = ("-keyalg", "EC", "-keysize", "256")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(address[0].partition("%")[0]).is_loopback for *_, address in found)


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody but its owner can read at any moment, whole or not at all."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


class Vault:
    """What a secured broker of `folder` keeps secret, in `folder/security`.

    Raises
    ------
    BrokerError
        Java's keytool is missing or refuses.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "security"
        self.ca_file = self.home / "ca.pem"
        self.broker_file = self.home / "kafka.properties"
        self.admin_file = self.home / "admin.properties"
        self.jaas_file = self.home / "zookeeper.jaas"
        self.client_file = folder / "client.env"

    @property
    def passwords(self) -> dict[str, str]:
        """The password of each user, and of the key stores."""
        return dict(line.split("=", 1) for line in (self.home / "passwords").read_text().splitlines())

    def prepare(self, java: str, names: Iterable[str], bootstrap: str) -> None:
        """Make what is missing: passwords once, the certificate for these host names, the files of admin and client."""
        self.folder.chmod(0o700)  # the messages and the logs are there
        self.home.mkdir(mode=0o700, exist_ok=True)
        if not (self.home / "passwords").exists():
            made = [f"{user}={secrets.token_urlsafe(24)}\n" for user in _USERS]
            write_private(self.home / "passwords", "".join(made))
        write_private(self.home / "keystore.password", self.passwords["keystore"])
        self._certify(_keytool(java), sorted(set(names)))
        write_private(self.jaas_file, self._jaas())
        write_private(self.admin_file, _lines(self._tool_settings()))
        write_private(self.client_file, self._client_lines(bootstrap))

    def client_environment(self, bootstrap: str) -> dict[str, str]:
        """What a program of ours needs in its environment to be the user `sor`."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": MECHANISM,
            "KAFKA_SASL_USERNAME": CLIENT,
            "KAFKA_SASL_PASSWORD": self.passwords[CLIENT],
            "KAFKA_SSL_CAFILE": str(self.ca_file),
        }

    def _client_lines(self, bootstrap: str) -> str:
        return "".join(f"{name}={shlex.quote(text)}\n" for name, text in self.client_environment(bootstrap).items())

    def write_broker_settings(self, base: str, mode: str, overrides: Mapping[str, str]) -> Path:
        """The broker's settings file: the lines of the plain one, then what differs. Returns its path."""
        settings = {"log.dirs": f"data-{mode}-secure/kafka", **self._broker_settings(), **overrides}
        settings |= self._kraft_settings() if mode == "kraft" else self._zookeeper_settings()
        write_private(self.broker_file, f"{base}\n# --- this broker, secured\n{_lines(settings)}")
        return self.broker_file

    def write_zookeeper_settings(self, text: str) -> str:
        """ZooKeeper's settings, with data apart from the open one's and no session without a password."""
        sasl = {
            "dataDir": "./data-zookeeper-secure/zookeeper",
            "authProvider.1": "org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
            "enforce.auth.enabled": "true",
            "enforce.auth.schemes": "sasl",
        }
        return f"{text}\n{_lines(sasl)}"

    def write_format_words(self, words: Iterable[str]) -> Path:
        """A file of arguments for Kafka's StorageTool, with both users among them; to be removed after its run."""
        users = []
        for user in (ADMIN, CLIENT):
            users += ["--add-scram", f"{MECHANISM}=[name={user},password={self.passwords[user]}]"]
        path = self.home / "format.words"
        write_private(path, "".join(f"{word}\n" for word in [*words, *users]))
        return path

    def write_user_change(self, user: str) -> Path:
        """A file for ConfigCommand's --add-config-file that gives the user its password; to be removed after its run."""
        path = self.home / "user.properties"
        write_private(path, _lines({MECHANISM: f"password={self.passwords[user]}"}))
        return path

    def _broker_settings(self) -> dict[str, str]:
        return {
            "security.inter.broker.protocol": "SASL_SSL",
            "sasl.enabled.mechanisms": MECHANISM,
            "sasl.mechanism.inter.broker.protocol": MECHANISM,
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": self._scram_login(),
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.location": str(self.home / "server.p12"),
            "ssl.keystore.password": self.passwords["keystore"],
            "ssl.key.password": self.passwords["keystore"],
            **self._trust(),
            "allow.everyone.if.no.acl.found": "false",
            "super.users": f"User:{ADMIN};User:controller",
        }

    def _kraft_settings(self) -> dict[str, str]:
        password = self.passwords["controller"]
        login = f'required username="controller" password="{password}" user_controller="{password}";'
        return {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:SASL_SSL",
            "sasl.mechanism.controller.protocol": "PLAIN",
            "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.controller.plain.sasl.jaas.config": (
                f"org.apache.kafka.common.security.plain.PlainLoginModule {login}"
            ),
        }

    def _zookeeper_settings(self) -> dict[str, str]:
        return {
            "authorizer.class.name": "kafka.security.authorizer.AclAuthorizer",
            "zookeeper.set.acl": "true",
        }

    def _tool_settings(self) -> dict[str, str]:
        return {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": MECHANISM,
            "sasl.jaas.config": self._scram_login(),
            **self._trust(),
        }

    def _scram_login(self) -> str:
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        return f'{module} required username="{ADMIN}" password="{self.passwords[ADMIN]}";'

    def _trust(self) -> dict[str, str]:
        return {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(self.ca_file)}

    def _jaas(self) -> str:
        """Of ZooKeeper and of its client, the broker."""
        module, password = "org.apache.zookeeper.server.auth.DigestLoginModule", self.passwords["zookeeper"]
        return (
            f'Server {{ {module} required user_kafka="{password}"; }};\n'
            f'Client {{ {module} required username="kafka" password="{password}"; }};\n'
        )

    def _certify(self, keytool: str, names: list[str]) -> None:
        """An authority, once, and a certificate that it gives to `names`; made anew where names or time ask for it."""
        stamp, wanted = self.home / "names", "\n".join(names)
        is_young = stamp.exists() and time.time() - stamp.stat().st_mtime < _CERTIFICATE_S
        if is_young and stamp.read_text() == wanted:
            return
        if not self.ca_file.exists():
            self._make_authority(keytool)
        self._make_certificate(keytool, names)
        write_private(stamp, wanted)

    def _make_authority(self, keytool: str) -> None:
        authority = ("-alias", "ca", "-keystore", "ca.p12")
        (self.home / "ca.p12").unlink(missing_ok=True)
        can_sign = ("-ext", "bc:c=ca:true,pathlen:0", "-ext", "ku:c=keyCertSign,cRLSign", "-validity", "3650")
        whose = hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]  # tells one folder's authority from another's
        self._run(keytool, "-genkeypair", *authority, *_KEY, "-dname", f"CN=local Kafka authority {whose}", *can_sign)
        write_private(self.ca_file, self._run(keytool, "-exportcert", "-rfc", *authority))

    def _make_certificate(self, keytool: str, names: list[str]) -> None:
        server = ("-alias", "server", "-keystore", "server.p12")
        (self.home / "server.p12").unlink(missing_ok=True)
        self._run(keytool, "-genkeypair", *server, *_KEY, "-dname", "CN=local Kafka", "-validity", "825")
        request = self._run(keytool, "-certreq", *server)
        uses = ("-ext", "ku:c=digitalSignature", "-ext", "eku=serverAuth,clientAuth", "-validity", "825")
        granted = ("-ext", "san=" + ",".join(map(_alternative_name, names)))
        signed = self._run(
            keytool, "-gencert", "-rfc", "-alias", "ca", "-keystore", "ca.p12", *uses, *granted, stdin=request
        )
        self._run(keytool, "-importcert", "-noprompt", *server, stdin=signed + self.ca_file.read_text())

    def _run(self, keytool: str, *words: str, stdin: str = "") -> str:
        command = [keytool, *_QUICK, *words, *_STORE]
        run = subprocess.run
        done = run(command, cwd=self.home, input=stdin, capture_output=True, text=True, check=False, umask=0o077)
        if done.returncode:
            raise BrokerError(f"keytool {words[0]} failed: {(done.stdout + done.stderr).strip()}")
        return done.stdout


def certificate_names(*hosts: str) -> set[str]:
    """The names a client of this machine may use, and `hosts`."""
    return {"localhost", "127.0.0.1", "::1", *hosts}


def _alternative_name(host: str) -> str:
    try:
        return f"ip:{ipaddress.ip_address(host)}"
    except ValueError:
        return f"dns:{host}"


def _keytool(java: str) -> str:
    beside = Path(java).resolve().with_name("keytool")
    found = str(beside) if beside.exists() else shutil.which("keytool")
    if not found:
        raise BrokerError(f"keytool not found beside {java}; --secure needs the one that comes with Java")
    return found


def _lines(settings: Mapping[str, str]) -> str:
    return "".join(f"{name}={text}\n" for name, text in settings.items())
