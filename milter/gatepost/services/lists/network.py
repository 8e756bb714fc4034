"""Networks whose hosts do not come from the Internet: a site's own, or those of a provider's inside."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

PRIVATE_NETWORKS: tuple[IPv4Network | IPv6Network, ...] = (
    IPv4Network("127.0.0.0/8"),
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("169.254.0.0/16"),
    IPv4Network("100.64.0.0/10"),
    IPv6Network("::1/128"),
    IPv6Network("fc00::/7"),
    IPv6Network("fe80::/10"),
)
"""Loopback, private (RFC 1918, RFC 4193), link-local (RFC 3927, RFC 4291) and providers' shared addresses (RFC 6598).
`is_private` of ipaddress has more: networks for documentation, and some that are special in other ways."""
