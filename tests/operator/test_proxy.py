"""Which proxy leads to the API server, as a table: HTTPS_PROXY, and NO_PROXY as Kubernetes' own programs read it."""

import pytest

from celeriac_operator.cluster.proxy import proxy_for
from celeriac_operator.errors import SetupError

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, None, id="nothing set"),
        pytest.param({"HTTPS_PROXY": PROXY}, PROXY, id="HTTPS_PROXY"),
        pytest.param({"https_proxy": PROXY}, PROXY, id="in small letters"),
        pytest.param({"https_proxy": PROXY, "HTTPS_PROXY": "http://other"}, PROXY, id="small letters first"),
        pytest.param({"https_proxy": "", "HTTPS_PROXY": PROXY}, PROXY, id="empty is not set"),
        pytest.param({"HTTPS_PROXY": "proxy.example:3128"}, PROXY, id="without a scheme"),
        pytest.param({"HTTPS_PROXY": "HTTP://proxy.example"}, "HTTP://proxy.example", id="a scheme in capitals"),
        pytest.param({"HTTPS_PROXY": "http://[fd00::3]:3128"}, "http://[fd00::3]:3128", id="at an IPv6 address"),
        pytest.param({"HTTP_PROXY": PROXY}, None, id="HTTP_PROXY is for plain HTTP"),
        pytest.param({"ALL_PROXY": PROXY}, PROXY, id="ALL_PROXY"),
        pytest.param({"ALL_PROXY": "http://other", "HTTPS_PROXY": PROXY}, PROXY, id="HTTPS_PROXY before ALL_PROXY"),
        pytest.param({"HTTPS_PROXY": PROXY, "no_proxy": "10.0.0.1"}, None, id="no_proxy in small letters"),
    ],
)
def test_the_environment_names_the_proxy(environ, expected):
    assert proxy_for("https://10.0.0.1:443", environ) == expected


@pytest.mark.parametrize(
    ("server", "no_proxy", "past"),
    [
        ("https://10.0.0.1:443", "", False),
        ("https://10.0.0.1:443", "*", True),
        ("https://10.0.0.1:443", "10.0.0.1", True),
        ("https://10.0.0.1:443", "10.0.0.2", False),
        ("https://10.0.0.1:443", "10.0.0.1:443", True),
        ("https://10.0.0.1:443", "10.0.0.1:6443", False),
        ("https://10.0.0.1:443", "10.0.0.0/8", True),
        ("https://10.0.0.1:443", "10.0.0.7/8", True),  # bits beyond the network's are passed over
        ("https://10.0.0.1:443", "192.168.0.0/16", False),
        ("https://10.0.0.1:443", "10.0.0.0/99", False),
        ("https://10.0.0.1:443", "fd00::/8", False),
        ("https://10.0.0.1:443", ".0.0.1", True),  # text, as in Go: no network is meant
        ("https://10.0.0.1:443", " a.example , 10.0.0.1 ", True),
        ("https://10.0.0.1:443", ",,", False),
        ("https://[fd00::1]:443", "fd00::1", True),
        ("https://[fd00::1]:443", "[fd00::1]", True),
        ("https://[fd00::1]:443", "[fd00::1]:443", True),
        ("https://[fd00::1]:443", "[fd00::1]:6443", False),
        ("https://[fd00::1]:443", "FD00:0::1", True),
        ("https://[fd00::1]:443", "fd00::/8", True),
        ("https://[fd00::1]:443", "fd00::2", False),
        ("https://k8s.example.com:6443", "example.com", True),
        ("https://k8s.example.com:6443", "EXAMPLE.com", True),
        ("https://k8s.example.com:6443", ".example.com", True),
        ("https://k8s.example.com:6443", "*.example.com", True),
        ("https://k8s.example.com:6443", "k8s.example.com", True),
        ("https://k8s.example.com:6443", "k8s.example.com:6443", True),
        ("https://k8s.example.com:6443", "k8s.example.com:443", False),
        ("https://k8s.example.com:6443", ".k8s.example.com", False),  # what is below it, not itself
        ("https://k8s.example.com:6443", "ample.com", False),
        ("https://k8s.example.com:6443", "*example.com", False),
        ("https://k8s.example.com:6443", "other.com", False),
        ("https://k8s.example.com:6443", "10.0.0.0/8", False),  # names are not looked up
        ("https://k8s.example.com", "k8s.example.com:443", True),
        ("https://k8s.example.com", ":443", False),
        ("https://localhost:6443", "", True),
        ("https://127.0.0.1:6443", "", True),
        ("https://[::1]:6443", "", True),
    ],
)  # fmt: skip
def test_no_proxy_names_servers_that_are_reached_without_one(server, no_proxy, past):
    found = proxy_for(server, {"HTTPS_PROXY": PROXY, "NO_PROXY": no_proxy})

    assert found == (None if past else PROXY)


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("https://ann:secret@proxy.example:3128", "HTTPS_PROXY names a proxy by https://"),
        ("socks5://ann:secret@proxy.example:1080", "HTTPS_PROXY names a proxy by socks5://"),
        ("http://ann:secret@", "HTTPS_PROXY names no host"),
        ("http://ann:secret@proxy.example:99999", "HTTPS_PROXY names no port that there is"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_told_without_its_password(proxy, said):
    with pytest.raises(SetupError) as caught:
        proxy_for("https://10.0.0.1:443", {"HTTPS_PROXY": proxy})

    assert str(caught.value).startswith(said)
    assert "10.0.0.1 into NO_PROXY" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_proxy_that_cannot_be_used_does_not_matter_where_none_is():
    assert proxy_for("https://10.0.0.1:443", {"HTTPS_PROXY": "socks5://proxy", "NO_PROXY": "10.0.0.0/8"}) is None
