# SPDX-License-Identifier: Apache-2.0
"""[[link]] tables: what they may be, and how what they may not be is said."""

import pytest

from shmpool.bridge.config import Local, Remote, end_of
from shmpool.service.config import ConfigError, parse

SENDS = 'from = "rx/work"\nto = "zmq://far:5555/rx/work"\n'
RECEIVES = 'from = "zmq://*:5555/rx/work"\nto = "rx/work"\n'
OVER_NATS = 'from = "rx/work"\nto = "nats://far:4222/work"\n'
FROM_NATS = 'from = "nats://far:4222/work"\nto = "rx/work"\n'
KEY = "k" * 40


def fault(text: str) -> str:
    """What the configuration says is wrong with one link."""
    with pytest.raises(ConfigError) as found:
        parse(f"[[link]]\n{text}", "bridge.toml")
    return str(found.value)


def test_a_link_each_way() -> None:
    """A link that sends has its pool at from, one that receives at to; both have their ends."""
    sends, receives = parse(f"[[link]]\n{SENDS}[[link]]\n{RECEIVES}").link
    assert (True, False) == (sends.sends, receives.sends)
    assert Local("rx", "work") == sends.local == receives.local
    assert [Remote("zmq", "far", 5555, "rx/work")] == sends.remotes
    assert [Remote("zmq", "*", 5555, "rx/work")] == receives.remotes
    assert ("rx/work", 16, "competing") == (sends.shown, sends.window, sends.receivers)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("rx/work", Local("rx", "work")),
        ("zmq://10.0.0.7:5555/a/b", Remote("zmq", "10.0.0.7", 5555, "a/b")),
        ("zmq://[fe80::1]:1/a", Remote("zmq", "fe80::1", 1, "a")),
        ("nats://host.example:4222/stream", Remote("nats", "host.example", 4222, "stream")),
    ],
)
def test_ends(text: str, end: Local | Remote) -> None:
    """An end is read as what it is, and written as it was."""
    assert end == end_of(text)
    assert text == str(end)


def test_several_receivers() -> None:
    """A link that sends may have several."""
    text = '[[link]]\nfrom = "rx/work"\nto = ["zmq://a:1/x", "zmq://b:1/x"]\nreceivers = "all"\n'
    (link,) = parse(text).link
    assert (["a", "b"], "all") == ([one.host for one in link.remotes], link.receivers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('to = "zmq://far:5555/x"', "link.0: from is missing"),
        (SENDS + "windows = 3", "line 4: link.0.windows = 3: unknown key; known are allow_keys"),
        (SENDS + "window = 0", "line 4: link.0.window = 0: it must be from 1 to 1024"),
        (SENDS + 'receivers = "some"', 'it must be "competing" or "all"'),
        ('from = "rx"\nto = "zmq://far:1/x"', "'rx' is neither pool/queue nor an address"),
        ('from = "rx/work"\nto = "amqp://far:1/x"', "it must be zmq:// or nats://"),
        ('from = "rx/work"\nto = "zmq://far/x"', "has no port; it must be zmq://host:port/path"),
        ('from = "rx/work"\nto = "zmq://far:70000/x"', "the port from 1 to 65535"),
        ('from = "rx/work"\nto = "zmq://:5/x"', "has no host"),
        ('from = "rx/work"\nto = "zmq://far:5"', "has no path"),
        ('from = "rx/work"\nto = "rx/other"', "one end must be a queue or topic here"),
        ('from = "zmq://*:5/x"\nto = "zmq://far:5/x"', "one end must be a queue or topic here"),
        ('from = "rx/work"\nto = []', "it must name from 1 to 16 receivers"),
        ('from = "rx/work"\nto = ["zmq://a:1/x", "zmq://a:1/x"]', "a receiver is named twice"),
        ('from = "rx/work"\nto = "zmq://*:1/x"', "it must name the receiver's host"),
        ('from = "nats://*:4222/work"\nto = "rx/work"', "it must name the server's host"),
        ('from = "nats://[*]:4222/work"\nto = "rx/work"', "it must name the server's host"),
        ('from = "rx/work"\nto = "nats://*:4222/work"', "it must name the receiver's host"),
        (OVER_NATS + f'key_file = "/k"\npeer_key = "{KEY}"', "it is only for links over zmq://"),
        (
            FROM_NATS + f'key_file = "/k"\nallow_keys = ["{KEY}"]',
            "it is only for links over zmq://",
        ),
        (SENDS + f'key_file = "/k"\npeer_key = "{KEY}"\nallow_keys = ["{KEY}"]', "has peer_key"),
        (SENDS + 'peer_key = "short"', "40 characters of Z85"),
        (SENDS + f'peer_key = "{"#" * 40}"', "40 characters of Z85"),  # more than 32 bits
        (SENDS + f'peer_key = "{KEY}"', "key_file: it is missing"),
        (SENDS + 'key_file = "/k"', "peer_key: it is missing"),
        (RECEIVES + 'key_file = "/k"', "allow_keys: it is missing"),
        (RECEIVES + f'key_file = "/k"\npeer_key = "{KEY}"', "only a link that sends has it"),
    ],
)
def test_what_is_wrong(text: str, said: str) -> None:
    """Each mistake is said with the line, the value, what is allowed, and what to do."""
    assert said in fault(text)
    assert fault(text).startswith("bridge.toml, line ")


def test_links_beside_each_other() -> None:
    """Two links have two names, and two that receive two ports. The line is the second one's."""
    assert "line 5: link.1.from" in fault(f"{SENDS}[[link]]\n{SENDS}")
    assert "another link has that name; set name" in fault(f"{SENDS}[[link]]\n{SENDS}")
    other = RECEIVES.replace("rx/work", "rx/other")
    assert "another link receives at that port" in fault(f"{RECEIVES}[[link]]\n{other}")
    assert 2 == len(parse(f"[[link]]\n{SENDS}[[link]]\nname = 'x'\n{SENDS}").link)
