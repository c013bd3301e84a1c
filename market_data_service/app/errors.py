"""Everything this service raises on purpose. A message says what was and what must be; it is shown as `error: <message>`.

ServiceError
├── SettingsError            a setting, flag or file of the user is wrong: exit 2
└── ProviderError            a provider of prices gave no usable one; names the provider
    ├── UnknownSymbolError       it answered that it has no such symbol
    ├── RateLimitedError         it asked for fewer calls
    ├── ProviderTimeoutError     it did not answer in time
    ├── ProviderNetworkError     it could not be reached, or answered with something that is not its format
    └── BadPriceError            its price is not a number, infinite, not above zero, too large to store, or of the future
"""


class ServiceError(Exception):
    """Any error below; caught in the `main` of each program and in the API's error handlers only."""


class SettingsError(ServiceError):
    """A setting has an impossible value."""


class ProviderError(ServiceError):
    """A call to a provider failed.

    Parameters
    ----------
    provider
        Name of the provider, as in the registry.
    message
        What happened, in one line, without the provider's name.
    """

    def __init__(self, provider: str, message: str) -> None:
        super().__init__(provider, message)
        self.provider, self.message = provider, message

    def __str__(self) -> str:
        return f"{self.provider}: {self.message}"


class UnknownSymbolError(ProviderError):
    """The provider answered, and has no such symbol."""


class RateLimitedError(ProviderError):
    """The provider refused since it is asked too often; `retry_after_s` is the wait it named in seconds, None if none."""

    def __init__(self, provider: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(provider, message)
        self.retry_after_s = retry_after_s


class ProviderTimeoutError(ProviderError):
    """No answer within PROVIDER_TIMEOUT_SECONDS."""


class ProviderNetworkError(ProviderError):
    """The provider could not be reached, hung up, or answered with something that is not its format."""


class BadPriceError(ProviderError):
    """The provider's price cannot be stored: NaN, infinite, not above zero, 10^12 and more, or of a time yet to come."""
