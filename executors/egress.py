"""Egress: which hosts a tool call may reach, checked on the very address it connects to.

Deny by default. `SLUICEGATE_EGRESS` lists `host[:port]`, comma separated; `*.example.com` means every name below it.
An address inside (loopback, private, link-local, metadata services, and IPv6 forms that carry one) is refused unless
exactly that `host:port` is on the list. The resolver checks and hands the checked addresses to the connector, so a name
that answers differently the second time gains nothing.
Never follows redirects and never reads proxy variables: see `http.py`, next.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from aiohttp.abc import AbstractResolver, ResolveResult
from sluicegate.schemas.errors import Terminal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Addresses of a name, as text."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_MORE_INSIDE = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "3fff::/20", "5f00::/16"))
)
"""Special purpose by the IANA registries, and global in the eyes of Python 3.11."""


MAX_ALLOWED = 4_096
"""Hosts remembered as allowed, about 150 bytes each; contracts name them, so there are few."""


class Denied(Exception):
    """A host or an address that may not be reached. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class _Rule:
    host: str
    port: int | None

    def allows(self, host: str, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return host == self.host


@lru_cache(maxsize=4_096)
def _normal(host: str) -> str:
    host = host.strip("[]").rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def _rule(text: str) -> _Rule:
    host, colon, port = text.rpartition(":")
    if (
        not colon
        or (host.startswith("[") != host.endswith("]"))
        or (":" in host and not host.startswith("["))
    ):
        host, port = text, ""  # no port, or a bare IPv6 address
    name = _normal(host)
    if not name or name == "*" or "*" in name[1:] or "/" in name or (port and not port.isdecimal()):
        raise Terminal(
            f"`{text}` in SLUICEGATE_EGRESS is no host[:port]: write for example `api.example.com:443`, "
            "`*.example.com` or `127.0.0.1:8900`"
        )
    return _Rule(name, int(port) if port else None)


def is_outside(address: Address) -> bool:
    """Whether an address belongs to the public internet, whatever form it is written in."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is None and int(address) >> 32 == 0:  # the old ::a.b.c.d
            inner = ipaddress.IPv4Address(int(address))
        if inner is not None:
            return is_outside(inner)
        if address.is_site_local:
            return False
    if any(address in network for network in _MORE_INSIDE):
        return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    )


class Egress:
    """The allow list of one process."""

    def __init__(self, patterns: str) -> None:
        self._rules = [_rule(part.strip()) for part in patterns.split(",") if part.strip()]
        self._allowed: set[tuple[str, int]] = set()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Egress:
        """Read `SLUICEGATE_EGRESS`; raises `Terminal` with what to change."""
        return cls(environ.get("SLUICEGATE_EGRESS", ""))

    def check_host(self, host: str, port: int) -> None:
        """Raise `Denied` unless a rule names this host. An address as host is checked at once."""
        if (host, port) in self._allowed:
            return  # the list never changes; what a name resolves to is checked each time
        name = _normal(host)
        self._check(host, port, name)
        if len(self._allowed) < MAX_ALLOWED:
            self._allowed.add((host, port))

    def _check(self, host: str, port: int, name: str) -> None:
        if not any(rule.allows(name, port) for rule in self._rules):
            raise Denied(f"`{name}:{port}` is not on the egress list, add it to SLUICEGATE_EGRESS")
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            try:
                socket.inet_aton(name)
            except OSError:
                return  # a name: its addresses are checked when it is resolved
            raise Denied(
                f"`{name}` is an address in a form that hides it, write four decimal numbers"
            ) from None
        self.check_address(host, port, address)

    def check_address(self, host: str, port: int, address: Address) -> None:
        """Raise `Denied` for an address inside, unless exactly this host and port are listed."""
        name = _normal(host)
        # INVARIANT: nobody reaches an inside address through a name they control
        # (tests/unit/test_http_adapter.py::test_ssrf_corpus, ::test_rebinding).
        if not is_outside(address) and _Rule(name, port) not in self._rules:
            raise Denied(
                f"`{name}:{port}` is the inside address `{address}`, add exactly `{name}:{port}` to "
                "SLUICEGATE_EGRESS if that is meant"
            )


async def system_lookup(host: str, port: int) -> list[str]:
    """The system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class CheckedResolver(AbstractResolver):
    """Resolves once, refuses what may not be reached, and returns the addresses to connect to."""

    def __init__(self, egress: Egress, lookup: Lookup = system_lookup) -> None:
        self._egress = egress
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Every address of the name is checked; one inside refuses them all."""
        self._egress.check_host(host, port)
        results: list[ResolveResult] = []
        for text in dict.fromkeys(await self._lookup(host, port)):
            address = ipaddress.ip_address(text.partition("%")[0])
            self._egress.check_address(host, port, address)
            kind = socket.AF_INET if address.version == 4 else socket.AF_INET6
            if family not in (socket.AF_UNSPEC, kind):
                continue
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(address),
                    port=port,
                    family=kind,
                    proto=0,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        if not results:
            raise OSError(None, "the name has no address")
        return results

    async def close(self) -> None:
        """Nothing is held."""
