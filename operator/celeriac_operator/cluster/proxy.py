"""Which proxy the API server is reached by: the environment's, unless NO_PROXY names the server.

The rules are those of Kubernetes' own programs (Go's `golang.org/x/net/http/httpproxy`), which people know from kubectl;
ALL_PROXY, which Go does not read, counts where HTTPS_PROXY is not set.
"""

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from celeriac_operator.errors import SetupError

_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]+\]|[^:]*)(?::(?P<port>[^:]*))?")

_Address = IPv4Address | IPv6Address


def proxy_for(server: str, environ: Mapping[str, str]) -> str | None:
    """The URL of the HTTP proxy to a server that speaks https (https://host:port); None for none.

    Raises SetupError for one that is reached by anything but HTTP, or is no URL; the message holds no password.
    """
    name = next((name for name in ("HTTPS_PROXY", "ALL_PROXY") if _value(environ, name)), None)
    if name is None:
        return None
    parts = urlsplit(server)
    if _past(str(parts.hostname), str(parts.port or 443), _value(environ, "NO_PROXY")):
        return None
    proxy = _value(environ, name)
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if fault := _fault(proxy):
        raise SetupError(f"{name} {fault}; write http://host:port, or {parts.hostname} into NO_PROXY to use none")
    return proxy


def _fault(proxy: str) -> str:
    """What is wrong with the URL of a proxy, "" for nothing."""
    parts = urlsplit(proxy)
    if parts.scheme != "http":
        return f"names a proxy by {parts.scheme}://"
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not parts.hostname:
        return "names no host"
    return "names no port that there is" if port == 0 else ""


def _value(environ: Mapping[str, str], name: str) -> str:
    """A variable by its lower-case name, else by its upper-case one, as curl and Python have it; empty is not set."""
    return environ.get(name.lower()) or environ.get(name) or ""


def _past(host: str, port: str, no_proxy: str) -> bool:
    """Whether a server is reached without the proxy. This machine always is."""
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_covers(entry.strip().lower(), host, port, address) for entry in no_proxy.split(","))


def _covers(entry: str, host: str, port: str, address: _Address | None) -> bool:
    """Whether one entry of NO_PROXY names the server.

    entry   *, a network (10.0.0.0/8), an address, a domain with all below it (example.com), or all below it alone
            (.example.com, *.example.com); each but the first two may end in a port. Anything else names nothing.
    """
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ip_network(entry, strict=False)
        except ValueError:
            return False
    found = _HOST_AND_PORT.fullmatch(entry)
    name, wanted = (found["host"], found["port"]) if found else (entry, None)
    name = name.strip("[]")
    if name.startswith("*."):
        name = name[1:]
    if not name or (wanted and wanted != port):
        return False
    if (named := _address(name)) is not None:
        return named == address
    return host == name or host.endswith(name if name.startswith(".") else f".{name}")


def _address(host: str) -> _Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
