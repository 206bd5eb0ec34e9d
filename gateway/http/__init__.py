"""The gateway's HTTP applications: the JSON API and its health endpoints. Every request reaches them through Envoy."""

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The installed release; `unknown` in a tree that was never installed."""
    try:
        return version("aios-platform")
    except PackageNotFoundError:
        return "unknown"
