#!/usr/bin/env bash
# Records mixed.pcap and mixed.pcapng from real traffic between network
# namespaces.
#
#   usage: record.sh OUTPUT_FOLDER        (as root, on Linux; about 30 seconds)
#
# Nothing leaves the machine: all interfaces live in three new namespaces whose
# names carry this script's process id, and all addresses are from the ranges
# kept for documentation.
#
#     client  eth0 ----- to_client  bridge  to_server ----- eth0  server
#             vlan20                switch                 vlan20
#                                              ^ both captures listen here
#
#     untagged  192.0.2.0/24      2001:db8:1::/64    client .11 .12 .13, server .80
#     VLAN 20   198.51.100.0/24   2001:db8:20::/64   client .11,         server .80
#
# vlan20 is a TAP device whose frames a small program tags and untags, so the
# script also works on kernels built without 802.1Q support.
#
# Needs (Debian package names): iproute2 ethtool tcpdump tshark wireshark-common
# curl nginx-light dnsmasq-base bind9-dnsutils iperf3 socat iputils-ping
# iputils-arping openssl python3

set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 OUTPUT_FOLDER" >&2
    exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)

missing=()
for tool in ip ss ethtool tc tcpdump dumpcap tshark capinfos curl nginx dnsmasq \
            dig iperf3 socat ping arping openssl python3 timeout; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "missing tools: ${missing[*]}" >&2
    exit 2
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "must run as root (it makes network namespaces)" >&2
    exit 2
fi

# ------------------------------------------------------- start and clean up --

work=$(mktemp -d)
client_ns=rec$$-client
switch_ns=rec$$-switch
server_ns=rec$$-server
namespaces=()      # those made so far
limit=120          # seconds that a server, tagger or capture may live

# Ends what this script started, and nothing else: its own background jobs, then
# what is left in its own namespaces.
cleanup() {
    local pid ns
    trap '' INT TERM        # a second signal must not stop this half way
    for pid in $(jobs -p); do kill "$pid" 2>/dev/null || true; done
    sleep 0.3
    for ns in "${namespaces[@]}"; do
        for pid in $(ip netns pids "$ns"); do kill -KILL "$pid" 2>/dev/null || true; done
    done
    wait
    for ns in "${namespaces[@]}"; do ip netns del "$ns" || true; done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

die() {
    echo "record.sh: $*" >&2
    exit 1
}

# start NAMESPACE LOG COMMAND...: run in the background, for $limit s at most.
start() {
    local ns=$1 log=$2
    shift 2
    timeout -k 5 "$limit" ip netns exec "$ns" "$@" >"$work/$log.log" 2>&1 &
}

# on NAMESPACE COMMAND...: run in the foreground, for 30 s at most.
on() {
    local ns=$1 status=0
    shift
    timeout -k 5 30 ip netns exec "$ns" "$@" || status=$?
    [ "$status" -eq 0 ] || echo "record.sh: status $status from: $*" >&2
    return "$status"
}
client() { on "$client_ns" "$@"; }
server() { on "$server_ns" "$@"; }

# wait_for WHAT COMMAND...: until the command succeeds, 10 s at most.
wait_for() {
    local what=$1 try
    shift
    for ((try = 0; try < 100; try++)); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    die "timed out waiting for $what"
}

# ------------------------------------------------------------ small programs --

# Joins a TAP device to a network device by way of one VLAN: a frame from the
# TAP device leaves with an 802.1Q tag, a frame with that tag comes in without.
cat >"$work/tagger.py" <<'PY'
import fcntl, os, select, socket, struct, sys

tap_name, device, vlan = sys.argv[1], sys.argv[2], int(sys.argv[3])
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
SOL_PACKET, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 263, 8, 23
ETH_P_ALL, VLAN_VALID = 0x0003, 1 << 4

tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", tap_name.encode(), IFF_TAP | IFF_NO_PI))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
wire.bind((device, ETH_P_ALL))
wire.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
wire.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
tag = struct.pack("!HH", 0x8100, vlan)
print("ready", flush=True)

while True:
    for ready in select.select([tap, wire], [], [])[0]:
        if ready is tap:
            frame = os.read(tap, 65536)
            wire.send(frame[:12] + tag + frame[12:])
            continue
        # The kernel takes the tag out of a received frame and reports it aside.
        frame, aside, _, _ = wire.recvmsg(65536, 64)
        for level, kind, data in aside:
            if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                status, _, _, _, _, tci, _ = struct.unpack("IIIHHHH", data[:20])
                if status & VLAN_VALID and tci & 0x0FFF == vlan:
                    os.write(tap, frame)
PY

# Sends each UDP datagram back to where it came from.
cat >"$work/udp_echo.py" <<'PY'
import select, socket, sys

port, sockets = int(sys.argv[1]), []
for address in sys.argv[2:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sockets.append(socket.socket(family, socket.SOCK_DGRAM))
    sockets[-1].bind((address, port))
print("ready", flush=True)
while True:
    for ready in select.select(sockets, [], [])[0]:
        data, sender = ready.recvfrom(65536)
        ready.sendto(data, sender)
PY

# Sends datagrams of the given sizes from one socket, one after the other, each
# again (four times at most) while its echo stays away.
cat >"$work/udp_send.py" <<'PY'
import socket, sys

source, target, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in target else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sock:
    sock.settimeout(1)
    sock.bind((source, 0))
    sock.connect((target, port))
    for size in map(int, sys.argv[4:]):
        data = (b"datagram of %d bytes " % size * (size // 12 + 1))[:size]
        for attempt in range(4):
            sock.send(data)
            try:
                while sock.recv(65536) != data:
                    pass            # the late echo of an earlier datagram
                break
            except TimeoutError:
                continue
        else:
            sys.exit("no echo of %d bytes from %s" % (size, target))
PY

# Copies a pcapng file without the options that describe the recording machine
# (processor and operating system). Packets and all else stay as they are.
cat >"$work/anonymise.py" <<'PY'
import struct, sys

SECTION, INTERFACE = 0x0A0D0D0A, 1
DROP = {SECTION: {2, 3}, INTERFACE: {12, 15}}   # hardware, os; if_os, if_hardware
FIXED = {SECTION: 16, INTERFACE: 8}             # bytes before the options

data, copy, at = open(sys.argv[1], "rb").read(), bytearray(), 0
assert struct.unpack_from("<I", data, 8)[0] == 0x1A2B3C4D, "not little-endian pcapng"
while at < len(data):
    kind, size = struct.unpack_from("<II", data, at)
    body = data[at + 8:at + size - 4]
    if kind in DROP:
        kept, pos = bytearray(body[:FIXED[kind]]), FIXED[kind]
        while pos < len(body):
            code, length = struct.unpack_from("<HH", body, pos)
            end = pos + 4 + (length + 3) // 4 * 4
            if code not in DROP[kind]:
                kept += body[pos:end]
            pos = end
        body = bytes(kept)
    copy += struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)
    at += size
open(sys.argv[2], "wb").write(copy)
PY

# ---------------------------------------------------------------- the network --

for ns in "$client_ns" "$switch_ns" "$server_ns"; do
    ip netns add "$ns"
    namespaces+=("$ns")
    ip -n "$ns" link set lo up
done

ip link add eth0 netns "$client_ns" type veth peer name to_client netns "$switch_ns"
ip link add eth0 netns "$server_ns" type veth peer name to_server netns "$switch_ns"

# No offloads: segments of at most one MTU, and checksums filled in.
plain() {
    on "$1" ethtool -K "$2" tso off gso off gro off tx off rx off >/dev/null
}
plain "$client_ns" eth0
plain "$server_ns" eth0
plain "$switch_ns" to_client
plain "$switch_ns" to_server

ip -n "$switch_ns" link add bridge type bridge stp_state 0 mcast_snooping 0
ip -n "$switch_ns" link set bridge up
for port in to_client to_server; do
    ip -n "$switch_ns" link set "$port" master bridge
    ip -n "$switch_ns" link set "$port" up
done
# A slow link towards the client, so that parallel transfers overlap, queue up
# and now and then lose a packet.
on "$switch_ns" tc qdisc add dev to_client root tbf rate 20mbit burst 8kb limit 96kb

# host NAMESPACE MAC NUMBER...: addresses of one host, untagged and on VLAN 20.
host() {
    local ns=$1 mac=$2 number
    shift 2
    ip -n "$ns" link set eth0 address "$mac" up
    ip -n "$ns" tuntap add mode tap name vlan20
    # Room for the tag: a tagged frame, too, has at most 1514 bytes.
    ip -n "$ns" link set vlan20 address "$mac" mtu 1496 up
    for number in "$@"; do
        ip -n "$ns" addr add "192.0.2.$number/24" dev eth0
        ip -n "$ns" addr add "2001:db8:1::$number/64" dev eth0 nodad
    done
    ip -n "$ns" addr add "198.51.100.$1/24" dev vlan20
    ip -n "$ns" addr add "2001:db8:20::$1/64" dev vlan20 nodad
}
host "$client_ns" 02:00:00:00:00:11 11 12 13
host "$server_ns" 02:00:00:00:00:80 80

start "$client_ns" tagger_client python3 "$work/tagger.py" vlan20 eth0 20
start "$server_ns" tagger_server python3 "$work/tagger.py" vlan20 eth0 20
wait_for "the VLAN of the client" grep -q ready "$work/tagger_client.log"
wait_for "the VLAN of the server" grep -q ready "$work/tagger_server.log"

# ---------------------------------------------------------------- the servers --

mkdir "$work/www"
python3 - "$work/www" <<'PY'
import pathlib, random, sys

folder, rng = pathlib.Path(sys.argv[1]), random.Random(20)
for kib in (0, 1, 4, 12, 40, 100, 240):
    size = kib * 1024 or 300
    text = "".join("line %d of %d KiB\n" % (i, kib) for i in range(size // 10))
    (folder / ("%dk.txt" % kib)).write_text(text[:size])
    (folder / ("%dk.bin" % kib)).write_bytes(rng.randbytes(size))
PY

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
    -subj /CN=www.shop.example -addext subjectAltName=DNS:www.shop.example \
    -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null

cat >"$work/nginx.conf" <<CONF
user root;
daemon off;
worker_processes 1;
pid $work/nginx.pid;
error_log $work/nginx_error.log;
events { worker_connections 128; }
http {
    access_log off;
    server_tokens off;
    default_type application/octet-stream;
    types { text/plain txt; }
    client_body_temp_path $work/body;
    proxy_temp_path $work/proxy;
    fastcgi_temp_path $work/fastcgi;
    uwsgi_temp_path $work/uwsgi;
    scgi_temp_path $work/scgi;
    server {
        listen 80;
        listen [::]:80;
        listen 443 ssl;
        listen [::]:443 ssl;
        ssl_certificate $work/cert.pem;
        ssl_certificate_key $work/key.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
        root $work/www;
    }
}
CONF
start "$server_ns" nginx nginx -e "$work/nginx_error.log" -p "$work" -c "$work/nginx.conf"

# A TXT record too long for one UDP answer makes the resolver go on over TCP.
filler=$(printf 'x%.0s' {1..240})
start "$server_ns" dnsmasq dnsmasq --keep-in-foreground --conf-file=/dev/null \
    --no-resolv --no-hosts --no-poll --user=root --pid-file= --local=/example/ \
    --host-record=www.shop.example,192.0.2.80,2001:db8:1::80 \
    --host-record=four.shop.example,192.0.2.80 \
    --host-record=six.shop.example,2001:db8:1::80 \
    --cname=shop.shop.example,www.shop.example \
    --mx-host=shop.example,www.shop.example,10 \
    --txt-record=short.shop.example,"a short text" \
    --txt-record=long.shop.example,"1$filler,2$filler,3$filler,4$filler,5$filler,6$filler"

start "$server_ns" iperf3 iperf3 -s -p 5201
start "$server_ns" tcp_echo socat TCP6-LISTEN:7000,ipv6only=0,reuseaddr,fork PIPE
start "$server_ns" tcp_sink socat -u TCP6-LISTEN:7001,ipv6only=0,reuseaddr,fork OPEN:/dev/null
start "$server_ns" udp_echo python3 "$work/udp_echo.py" 9000 \
    192.0.2.80 2001:db8:1::80 198.51.100.80 2001:db8:20::80

listening() { server ss -Hltn "sport = :$1" | grep -q .; }
for port in 53 80 443 5201 7000 7001; do
    wait_for "TCP port $port" listening "$port"
done
wait_for "the UDP echo server" grep -q ready "$work/udp_echo.log"

# ---------------------------------------------------------------- the traffic --

# fetch SCHEME SOURCE TARGET FILE...: the files one by one over one connection.
fetch() {
    local scheme=$1 source=$2 target=$3 port=80 file urls=()
    shift 3
    [ "$scheme" = http ] || port=443
    for file in "$@"; do urls+=("$scheme://www.shop.example/$file"); done
    client curl -sSf --noproxy '*' --max-time 20 --cacert "$work/cert.pem" \
        --resolve "www.shop.example:$port:$target" --interface "$source" \
        --tls-max "${tls:-1.3}" "${urls[@]}" >/dev/null
}

# together COMMAND LINE...: run the lines at the same time, fail if one fails.
together() {
    local line pids=() pid
    for line in "$@"; do
        # shellcheck disable=SC2086
        $line &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid"; done
}

four=192.0.2.80
six=2001:db8:1::80

forget_neighbours() {   # so that ARP and neighbour discovery are seen again
    local device
    for device in eth0 vlan20; do
        ip -n "$client_ns" neigh flush dev "$device"
        ip -n "$server_ns" neigh flush dev "$device"
    done
}

arp() {                 # arp COUNT: asks for the server, then tells an own address
    local i
    for ((i = 0; i < $1; i++)); do
        client arping -q -f -w 5 -I eth0 -s 192.0.2.11 "$four"
    done
    client arping -q -c 1 -U -I eth0 -s 192.0.2.12 192.0.2.12
}

web_large() {
    together \
        "fetch http 192.0.2.11 $four 240k.bin" \
        "fetch http 192.0.2.12 $four 100k.txt" \
        "fetch http 192.0.2.13 $four 40k.bin 12k.txt 4k.bin" \
        "fetch http 2001:db8:1::11 $six 100k.bin" \
        "fetch http 2001:db8:1::12 $six 40k.txt 1k.txt 12k.bin" \
        "fetch https 192.0.2.11 $four 100k.txt" \
        "fetch https 2001:db8:1::13 $six 40k.bin 4k.txt"
}

web_small() {           # web_small ROUNDS: six connections at a time
    local round
    for ((round = 0; round < $1; round++)); do
        together \
            "fetch http 192.0.2.11 $four 0k.txt" \
            "fetch http 192.0.2.12 $four 1k.bin 0k.txt 1k.txt" \
            "fetch http 192.0.2.13 $four 4k.txt" \
            "fetch http 2001:db8:1::11 $six 1k.txt" \
            "fetch http 2001:db8:1::12 $six 0k.bin 0k.txt 4k.bin" \
            "fetch https 192.0.2.12 $four 1k.txt"
    done
    tls=1.2 fetch https 2001:db8:1::11 "$six" 1k.bin
}

ask() { client dig +tries=4 +time=1 "$@" >/dev/null; }
dns() {                 # dns ROUNDS
    local round
    for ((round = 0; round < $1; round++)); do
        ask "@$four" www.shop.example A
        ask "@$four" www.shop.example AAAA
        ask "@$six" four.shop.example A
        ask "@$six" six.shop.example AAAA
        ask "@$four" shop.shop.example A
        ask "@$four" "missing$round.shop.example" A
        ask "@$six" "missing$round.shop.example" AAAA
        ask "@$four" -x "$four"
        ask "@$six" shop.example MX
        ask "@$four" short.shop.example TXT
    done
    ask "@$four" long.shop.example TXT
    ask +tcp "@$four" www.shop.example A
    ask +tcp "@$six" www.shop.example AAAA
    ask +tcp "@$six" missing.shop.example A
}

pings() {               # pings COUNT
    together \
        "client ping -q -c $1 -i 0.05 -I 192.0.2.11 $four" \
        "client ping -q -c $1 -i 0.05 -I 2001:db8:1::11 $six" \
        "client ping -q -c 4 -i 0.1 -s 1400 $four" \
        "client ping -q -c 3 -i 0.2 -s 3000 $four" \
        "client ping -q -c 3 -i 0.2 -s 3000 $six" >/dev/null
}

echo_lines() {          # echo_lines TARGET COUNT: a slow typist
    local i
    for ((i = 0; i < $2; i++)); do
        echo "line $i"
        sleep 0.02
    done | client socat -t 2 - "TCP:$1:7000" >/dev/null
}

bulk() {
    client iperf3 -c "$four" -p 5201 -n 160K -l 16K >/dev/null
    client iperf3 -6 -c "$six" -p 5201 -n 80K -l 16K -R >/dev/null
    client socat -u "FILE:$work/www/100k.bin" "TCP:$four:7001"
    client socat -u "FILE:$work/www/40k.txt" "TCP:[$six]:7001"
}

datagrams() {           # datagrams ROUNDS; the last sizes are sent as fragments
    local round sizes="0 1 17 18 19 40 64 100 128 200 256 400 512 800 1024 1232"
    for ((round = 0; round < $1; round++)); do
        # shellcheck disable=SC2086
        client python3 "$work/udp_send.py" 192.0.2.12 "$four" 9000 $sizes
        # shellcheck disable=SC2086
        client python3 "$work/udp_send.py" 2001:db8:1::12 "$six" 9000 $sizes
    done
    client python3 "$work/udp_send.py" 192.0.2.13 "$four" 9000 1471 1472 1473 4000
    client python3 "$work/udp_send.py" 2001:db8:1::13 "$six" 9000 1451 1452 1453 4000
}

refused() {             # a closed TCP port and a closed UDP port
    local target
    for target in "$four" "$six"; do
        if client bash -c ": </dev/tcp/$target/8888" 2>/dev/null; then
            die "TCP port 8888 is open"
        fi
        if client python3 "$work/udp_send.py" "" "$target" 8888 32 2>/dev/null; then
            die "UDP port 8888 is open"
        fi
    done
}

vlan() {                # vlan COUNT: the same kinds of traffic, tagged
    client ping -q -c "$1" -i 0.05 198.51.100.80 >/dev/null
    client ping -q -c "$1" -i 0.05 2001:db8:20::80 >/dev/null
    ask @198.51.100.80 www.shop.example A
    ask @2001:db8:20::80 missing.shop.example AAAA
    fetch http 198.51.100.11 198.51.100.80 12k.txt 1k.bin
    fetch http 2001:db8:20::11 2001:db8:20::80 4k.bin
    client python3 "$work/udp_send.py" 198.51.100.11 198.51.100.80 9000 0 1 64 512 1468
    client python3 "$work/udp_send.py" 2001:db8:20::11 2001:db8:20::80 9000 0 1 64 512 1448
}

# --------------------------------------------------------------- the captures --

echo "recording mixed.pcap"
start "$switch_ns" tcpdump tcpdump -n -s 0 -B 16384 -Z root -i to_server -w "$work/mixed.pcap"
capture=$!
wait_for "tcpdump" grep -q "listening on" "$work/tcpdump.log"
forget_neighbours
together "arp 3" web_large "dns 12" "pings 25" "datagrams 5" "vlan 10" \
    "echo_lines $four 60" "echo_lines [$six] 60" >/dev/null
together bulk "web_small 14" refused >/dev/null
sleep 2                     # let the last packets reach the file
kill "$capture"
wait "$capture" || die "tcpdump failed: $(cat "$work/tcpdump.log")"
grep -qx "0 packets dropped by kernel" "$work/tcpdump.log" ||
    die "tcpdump lost packets: $(cat "$work/tcpdump.log")"

echo "recording mixed.pcapng"
start "$switch_ns" dumpcap dumpcap -q -s 0 -B 16 -n -a "duration:$limit" -i to_server \
    -w "$work/raw.pcapng"
capture=$!
wait_for "dumpcap" grep -q "^File:" "$work/dumpcap.log"
sleep 0.5
forget_neighbours
together "arp 1" "web_small 1" "dns 1" "pings 3" "datagrams 0" "vlan 1" "echo_lines $four 3" >/dev/null
refused
fetch http 192.0.2.11 "$four" 12k.bin
sleep 2
kill "$capture"
wait "$capture" || die "dumpcap failed: $(cat "$work/dumpcap.log")"
grep -q "dropped on interface 'to_server': [0-9]*/0 " "$work/dumpcap.log" ||
    die "dumpcap lost packets: $(cat "$work/dumpcap.log")"
python3 "$work/anonymise.py" "$work/raw.pcapng" "$work/mixed.pcapng"

# ----------------------------------------------------------------- the checks --

# check FILE MIN_PACKETS MAX_PACKETS MAX_BYTES
check() {
    local file=$work/$1 packets bytes long short
    packets=$(tshark -n -r "$file" -T fields -e frame.number 2>/dev/null | wc -l)
    bytes=$(wc -c <"$file")
    long=$(tshark -n -r "$file" -Y 'frame.len > 1514' 2>/dev/null | wc -l)
    short=$(tshark -n -r "$file" -Y 'frame.cap_len < frame.len' 2>/dev/null | wc -l)
    echo "$1: $packets packets, $bytes bytes"
    if ((packets < $2 || packets > $3)); then die "$1: not $2 to $3 packets"; fi
    if ((bytes > $4)); then die "$1: more than $4 bytes"; fi
    if ((long > 0)); then die "$1: $long packets of more than 1514 bytes"; fi
    if ((short > 0)); then die "$1: $short packets cut short"; fi
}
check mixed.pcap 3000 6000 2500000
check mixed.pcapng 200 400 200000

for file in mixed.pcap mixed.pcapng; do
    install -m 644 "$work/$file" "$out/$file"
    echo
    (cd "$out" && capinfos -c -d -s -u -a -e -l -o "$file")
    tshark -n -r "$out/$file" -q -z io,phs 2>/dev/null
done
