"""The exceptions a user can cause; `main` of each program turns them into one line and an exit code.

SorError                exit 1
├── UsageError          exit 2: a setting, flag or argument is wrong
├── FeedError           a market data file cannot be read, or is not of a known format
├── StreamError         Kafka: broker unreachable, message not acknowledged, nothing to read in time
│   └── RunNotWholeError    a run on the topic was aborted, has gaps or a wrong checksum
├── AllocationError     an order or a venue handed to the allocator has an impossible value
├── PlacementError      scenarios, costs or options handed to the placement solver are impossible
├── VerificationError   output.json cannot be computed again: broken, of other data, of another version
└── ReplayError         the data hold nothing that the order could be replayed on
"""


class SorError(Exception):
    """Base of every error a user can cause. The message says what was found and what it must be."""

    exit_code = 1


class UsageError(SorError, ValueError):
    """A setting, a flag or an argument has a value that it must not have."""

    exit_code = 2


class FeedError(SorError):
    """A market data file cannot be read, or holds no usable row."""


class StreamError(SorError):
    """Kafka did not do what the run needs."""


class RunNotWholeError(StreamError):
    """A run on the topic was aborted, has gaps or does not match its checksum."""


class AllocationError(SorError, ValueError):
    """An order or a venue handed to the allocator has an impossible value."""


class PlacementError(SorError, ValueError):
    """Scenarios, costs or options handed to the placement solver are impossible."""


class VerificationError(SorError):
    """What stands in the way of computing a report again."""


class ReplayError(SorError):
    """The data hold nothing that the order could be replayed on."""
