from importlib.metadata import PackageNotFoundError, version


def installed_version(package: str) -> str:
    """Return the version of a package; a clone that runs from its folder is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
