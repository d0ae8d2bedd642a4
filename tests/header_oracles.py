# SPDX-License-Identifier: Apache-2.0
"""What dpkt and scapy read from a packet, as the columns of shmpool.net.headers.

Both are test tools only. Each returns the columns that it knows; those that it does not have are
left out, and so is what comes behind a header that it does not know.
"""

from typing import Any

import dpkt

MAPPED = bytes(10) + b"\xff\xff"


def by_dpkt(data: bytes) -> dict[str, Any]:
    """Ethernet, tags, IP, TCP, UDP and ARP. dpkt reads no tunnels."""
    eth = dpkt.ethernet.Ethernet(data)
    found: dict[str, Any] = {
        "mac_src": int.from_bytes(eth.src, "big"),
        "mac_dst": int.from_bytes(eth.dst, "big"),
        "vlans": len(getattr(eth, "vlan_tags", ())),
    }
    if found["vlans"]:
        found |= {"vlan": eth.vlan_tags[0].id, "vlan_priority": eth.vlan_tags[0].pri}
    else:
        found["ethertype"] = eth.type
    ip = eth.data
    if isinstance(ip, dpkt.arp.ARP) and (ip.hrd, ip.pro, ip.hln, ip.pln) == (1, 0x0800, 6, 4):
        found["arp_operation"] = ip.op
        found["src4"] = int.from_bytes(ip.spa, "big")
        found["dst4"] = int.from_bytes(ip.tpa, "big")
    elif isinstance(ip, dpkt.ip.IP):
        found |= {"ip_version": 4, "src": MAPPED + ip.src, "dst": MAPPED + ip.dst}
        found |= {"src4": int.from_bytes(ip.src, "big"), "dst4": int.from_bytes(ip.dst, "big")}
        found |= {"ttl": ip.ttl, "traffic_class": ip.tos, "ip_length": ip.len, "ip_id": ip.id}
        found |= {"fragment_offset": ip.offset * 8, "protocol": ip.p}
        found["ip_flags"] = ip.rf << 2 | ip.df << 1 | ip.mf
    elif isinstance(ip, dpkt.ip6.IP6):
        found |= {"ip_version": 6, "src": ip.src, "dst": ip.dst, "ttl": ip.hlim}
        found |= {"traffic_class": ip.fc, "flow_label": ip.flow, "ip_length": 40 + ip.plen}
        found |= {"protocol": ip.p, "extensions": len(ip.all_extension_headers)}
    above = getattr(ip, "data", b"")
    if isinstance(above, dpkt.tcp.TCP):
        found |= {"tcp_seq": above.seq, "tcp_ack": above.ack, "tcp_flags": above.flags & 0xFF}
        found |= {"tcp_window": above.win, "payload_length": len(above.data)}
    if isinstance(above, dpkt.udp.UDP):
        found["payload_length"] = min(len(above.data), max(above.ulen - 8, 0))
    if isinstance(above, dpkt.tcp.TCP | dpkt.udp.UDP):
        found |= {"port_src": above.sport, "port_dst": above.dport}
    return found


def by_scapy(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """All headers, and those of the packet in a tunnel."""
    # The first two bind themselves to the headers before them.
    from scapy.contrib import mpls  # noqa: F401
    from scapy.layers import ipsec  # noqa: F401
    from scapy.layers.l2 import Ether

    outer: dict[str, Any] = {}
    inner = _read_scapy(Ether(data), outer)
    found: dict[str, Any] = {}
    if inner is not None:
        _read_scapy(inner, found)
    return outer, found


def _read_scapy(layer: Any, found: dict[str, Any]) -> Any:
    """Reads layers into found. Returns the first layer of the packet in a tunnel, or None."""
    found |= {"vlans": 0, "mpls_labels": 0, "extensions": 0}
    while layer:
        name = type(layer).__name__
        if (name in ("IP", "IPv6") and "ip_version" in found) or (
            name == "Ether" and "mac_src" in found
        ):
            return None  # an IP packet in another one, or a guess at what MPLS carries
        if name == "IPv6ExtHdrFragment":
            found["extensions"] += 1
            found |= {"fragment_offset": layer.offset * 8, "ip_id": layer.id}
            found["protocol"] = layer.nh
        elif name.startswith("IPv6ExtHdr") or (name == "AH" and found["ip_version"] == 6):
            found["extensions"] += 1
            found["protocol"] = layer.nh
        elif name.startswith("ICMPv6"):
            found |= {"icmp_type": layer.type}
            if hasattr(layer, "code"):  # scapy calls it res in some
                found["icmp_code"] = layer.code
            if name.startswith("ICMPv6Echo"):
                found["icmp_id"] = layer.id
            return None
        elif name in _SCAPY:
            found |= {column: read(layer) for column, read in _SCAPY[name].items()}
            if name in ("Dot1Q", "Dot1AD"):
                found["vlans"] += 1
                if found["vlans"] < 3:
                    found["vlan" if found["vlans"] == 1 else "vlan_inner"] = layer.vlan
                if found["vlans"] == 1:
                    found["vlan_priority"] = layer.prio
            elif name == "MPLS":
                found["mpls_labels"] += 1
                if found["mpls_labels"] == 1:
                    found["mpls_label"] = layer.label
            elif name == "ICMP" and layer.type in (0, 8):
                found["icmp_id"] = layer.id
            elif name in ("VXLAN", "GRE"):
                return layer.payload
            elif name in ("TCP", "ARP", "ICMP", "SCTP"):
                return None
        else:
            return None
        layer = layer.payload
    return None


def _payload(layer: Any) -> int:
    """Bytes behind a layer, without the padding of the frame."""
    padding = layer.getlayer("Padding")
    return len(layer.payload) - (0 if padding is None else len(padding))


def _arp(layer: Any, name: str) -> int:
    """An address, if it is one of IPv4 over Ethernet."""
    if (layer.hwtype, layer.ptype, layer.hwlen, layer.plen) != (1, 0x0800, 6, 4):
        return 0
    return int.from_bytes(_bytes4(getattr(layer, name)), "big")


def _number(text: str) -> int:
    return int(text.replace(":", ""), 16)


def _bytes4(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


def _bytes6(text: str) -> bytes:
    import ipaddress

    return ipaddress.IPv6Address(text).packed


_SCAPY: dict[str, dict[str, Any]] = {
    "Ether": {
        "mac_src": lambda p: _number(p.src),
        "mac_dst": lambda p: _number(p.dst),
        "ethertype": lambda p: p.type,
    },
    "Dot1Q": {"ethertype": lambda p: p.type},
    "Dot1AD": {"ethertype": lambda p: p.type},
    "MPLS": {},
    "ARP": {
        "arp_operation": lambda p: p.op,
        "src4": lambda p: _arp(p, "psrc"),
        "dst4": lambda p: _arp(p, "pdst"),
    },
    "IP": {
        "ip_version": lambda p: 4,
        "src": lambda p: MAPPED + _bytes4(p.src),
        "dst": lambda p: MAPPED + _bytes4(p.dst),
        "ip_length": lambda p: p.len,
        "ip_id": lambda p: p.id,
        "ttl": lambda p: p.ttl,
        "traffic_class": lambda p: p.tos,
        "ip_flags": lambda p: int(p.flags),
        "fragment_offset": lambda p: p.frag * 8,
        "protocol": lambda p: p.proto,
    },
    "IPv6": {
        "ip_version": lambda p: 6,
        "src": lambda p: _bytes6(p.src),
        "dst": lambda p: _bytes6(p.dst),
        "ip_length": lambda p: 40 + p.plen,
        "ttl": lambda p: p.hlim,
        "traffic_class": lambda p: p.tc,
        "flow_label": lambda p: p.fl,
        "protocol": lambda p: p.nh,
    },
    "TCP": {
        "port_src": lambda p: p.sport,
        "port_dst": lambda p: p.dport,
        "tcp_seq": lambda p: p.seq,
        "tcp_ack": lambda p: p.ack,
        "tcp_flags": lambda p: int(p.flags) & 0xFF,
        "tcp_window": lambda p: p.window,
        "payload_length": lambda p: _payload(p),
    },
    "UDP": {
        "port_src": lambda p: p.sport,
        "port_dst": lambda p: p.dport,
        "payload_length": lambda p: _payload(p),
    },
    "SCTP": {"port_src": lambda p: p.sport, "port_dst": lambda p: p.dport},
    "ICMP": {"icmp_type": lambda p: p.type, "icmp_code": lambda p: p.code},
    "GRE": {"tunnel_id": lambda p: p.key or 0},
    "VXLAN": {"tunnel_id": lambda p: p.vni},
}
