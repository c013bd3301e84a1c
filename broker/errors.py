"""What can go wrong with a local Kafka; `main` of each command turns it into one line and an exit code.

BrokerError                  exit 1: a JVM did not start, or ended too early
├── NotInstalledError        Java, Maven or Kafka's jars are missing and could not be installed
├── AlreadyRunningError      exit 2: the folder's broker is up
└── PortTakenError           exit 2: another program listens there
"""

from sor.errors import SorError


class BrokerError(SorError):
    """The local Kafka did not do what was asked."""


class NotInstalledError(BrokerError):
    """Java, Maven or Kafka's jars are missing and could not be installed. The message says which package to install."""


class AlreadyRunningError(BrokerError):
    """A broker of this folder is up."""

    exit_code = 2


class PortTakenError(BrokerError):
    """Another program listens on a port that the broker needs."""

    exit_code = 2
