"""Whether a task may call a URL: its host is listed, and its address is public or listed itself. Pure."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit


class Target(NamedTuple):
    """Where a request goes. path: with the query string, if it has one."""

    secure: bool
    host: str
    port: int
    path: str
    query: str


def target_of(url: str, hosts: Sequence[str]) -> Target:
    """The target of a URL whose host is listed. Raises ValueError saying why it may not be called.

    hosts  host names (`api.example.com`, `*.example.com`, each with a `:port` if only that one is meant), addresses, and networks
           (`10.0.0.0/8`), which list the addresses in them.
    """
    if not hosts:
        raise ValueError("no host may be called: list those that may in the setting http_dispatch_hosts")
    if any(ord(each) <= 32 or ord(each) == 127 for each in url):
        raise ValueError(f"url {url!r} holds blanks or control characters")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"url {url!r} is not http://host/… or https://host/…")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"the url of host {parts.hostname} holds a user or a password: name them in the body instead")
    host, secure = parts.hostname.rstrip(".").lower(), parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    if not any(_lists(entry, host, port) for entry in hosts):
        raise ValueError(f"host {host}:{port} is not in http_dispatch_hosts")
    return Target(secure, host, port, parts.path or "/", parts.query)


def refusal_of(address: str, hosts: Iterable[str]) -> str | None:
    """Why nothing may connect to this address; None: it is public, or listed as an address or by a network."""
    ip = _unmapped(ip_address(address.partition("%")[0]))
    if any(_holds(_entry(entry).network, ip) for entry in hosts):
        return None
    if ip.is_global and not ip.is_multicast:
        return None
    return f"{ip} is no public address: list it, or its network, in http_dispatch_hosts if it is meant"


class _Entry(NamedTuple):
    """One entry of the list: a name or a network, and the port, None for all."""

    name: str
    network: IPv4Network | IPv6Network | None
    port: int | None


def _entry(entry: str) -> _Entry:
    name, port = entry.strip().lower(), ""
    if name.startswith("[") or name.count(":") == 1:
        name, _, port = name.rpartition(":") if not name.endswith("]") else (name, "", "")
    name = name.strip("[]")
    try:
        network = ip_network(name, strict=False)
    except ValueError:
        network = None
    return _Entry(name, network, int(port) if port.isdigit() else None)


def _lists(text: str, host: str, port: int) -> bool:
    entry = _entry(text)
    if entry.port not in {None, port}:
        return False
    if entry.network is not None:
        try:
            return _holds(entry.network, _unmapped(ip_address(host)))
        except ValueError:
            return False
    if entry.name.startswith("*."):
        return host.endswith(entry.name[1:]) and host != entry.name[1:]
    return host == entry.name


def _holds(network: IPv4Network | IPv6Network | None, ip: IPv4Address | IPv6Address) -> bool:
    return network is not None and network.version == ip.version and ip in network


#: Networks whose addresses end in the IPv4 address that is meant: written so of old, and NAT64's (RFC 6052).
_ENDS_IN_IPV4 = (ip_network("::/96"), ip_network("64:ff9b::/96"))


def _unmapped(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """An IPv4 address that is written as an IPv6 one, or is reached by it, is that IPv4 address; but for ::1, this machine."""
    if isinstance(ip, IPv4Address) or ip.is_loopback:
        return ip
    if any(ip in network for network in _ENDS_IN_IPV4):
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip
