"""How the API server is reached: a service account's files and a kubeconfig, against an API server here that speaks TLS."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
from base64 import b64decode
from contextlib import suppress
from pathlib import Path

import certificates
import pytest
from apiserver import ApiServer
from pods import OPERATOR, mount, server_identity, server_tls, variables

from celeriac_operator import errors, handlers
from celeriac_operator.cluster import access
from celeriac_operator.cluster.access import ServiceAccount, TokenFile, current_namespace, load_access
from celeriac_operator.cluster.client import KubeClient
from celeriac_operator.handlers import session_of

HERE = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def identity(tmp_path):
    """Of an API server on this machine."""
    return server_identity(tmp_path / "server")


@pytest.fixture
def secure(identity):
    """An API server that speaks TLS and wants a token."""
    with ApiServer(tls=server_tls(identity)) as api:
        api.token = "first"
        yield api


@pytest.fixture
def account(tmp_path, identity):
    """The folder of a service account that `secure` knows."""
    return mount(tmp_path / "account", identity, token="first")


def ask(made):
    """What the server's version is, by our own requests."""
    client = KubeClient(made, connect_timeout_s=1, read_timeout_s=1)
    try:
        return client.get("/version")["gitVersion"]
    finally:
        client.close()


def ask_as_watches_do(made):
    """The same by the session that kopf is given."""

    async def once():
        async with (
            await session_of(KubeClient(made)) as session,
            session.get(f"{made.endpoint().server}/version") as got,
        ):
            return (await got.json())["gitVersion"]

    return asyncio.run(once())


WAYS = pytest.mark.parametrize("way", [ask, ask_as_watches_do], ids=["requests", "watches"])


# -- the service account -----------------------------------------------------------------------------------------------


@WAYS
def test_a_pod_reaches_its_server_by_what_is_mounted_and_no_more(secure, account, way):
    assert way(ServiceAccount(account, variables(secure.port))) == "v1.20.2"


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("10.0.0.1", "https://10.0.0.1:6443"),
        ("fd00::1", "https://[fd00::1]:6443"),
        ("k8s.example.com", "https://k8s.example.com:6443"),
    ],
)
def test_the_server_is_the_one_the_variables_name(host, server, account):
    assert ServiceAccount(account, variables(6443, host)).endpoint().server == server


@pytest.mark.parametrize(
    ("file", "content", "environ", "said"),
    [
        pytest.param("", "", {}, "KUBERNETES_SERVICE_HOST is not set", id="no variables"),
        pytest.param("", "", {**HERE, "KUBERNETES_SERVICE_HOST": ""}, "HOST is not set", id="an empty host"),
        pytest.param("", "", {**HERE, "KUBERNETES_SERVICE_PORT": ""}, "PORT is not set", id="an empty port"),
        pytest.param(
            "", "", {**HERE, "KUBERNETES_SERVICE_PORT": "tcp://x"}, "PORT is tcp://x", id="a port that is none"
        ),
        pytest.param("token", None, HERE, "/token cannot be read: No such file", id="no token"),
        pytest.param("token", "\n", HERE, "/token is empty", id="an empty token"),
        pytest.param("ca.crt", None, HERE, "/ca.crt cannot be read: No such file", id="no CA"),
        pytest.param("ca.crt", "", HERE, "/ca.crt is empty", id="an empty CA"),
        pytest.param("", "", {**HERE, "https_proxy": "socks5://x"}, "HTTPS_PROXY names a proxy", id="no such proxy"),
    ],
)
def test_a_part_of_a_service_account_that_is_missing_is_named(file, content, environ, said, account):
    if content is None:
        (account / file).unlink()
    elif file:
        (account / file).write_text(content)

    with pytest.raises(errors.SetupError) as caught:
        ServiceAccount(account, environ)

    assert said in str(caught.value)


def test_a_server_that_the_ca_does_not_vouch_for_gets_no_token(secure, account, tmp_path):
    stranger = certificates.identity(tmp_path, "stranger", names=("127.0.0.1",))
    (account / "ca.crt").write_bytes(stranger.certificate.read_bytes())

    with pytest.raises(errors.Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        ask(ServiceAccount(account, variables(secure.port)))

    assert secure.requests == []


@WAYS
def test_a_server_of_another_name_gets_no_token(way, tmp_path):
    identity = server_identity(tmp_path, "k8s.example.com")
    account = mount(tmp_path / "account", identity, token="first")
    with ApiServer(tls=server_tls(identity)) as api:
        with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
            way(ServiceAccount(account, variables(api.port)))

        assert api.requests == []


def test_a_new_token_is_read_within_a_minute_and_the_file_once_a_minute(tmp_path):
    file, clock = tmp_path / "token", Clock()
    file.write_text("first\n")
    token = TokenFile(file, passed_s=clock)

    read = []
    for clock.now, content in ((0.0, "second"), (59.0, "second"), (60.0, "second"), (119.0, "third"), (120.0, "third")):
        file.write_text(content)
        read.append(token.read())

    assert read == ["first", "first", "second", "second", "third"]


@pytest.mark.parametrize("content", [None, "", "\n", b"\xff"], ids=["gone", "empty", "blank", "no text"])
def test_a_token_that_cannot_be_read_for_a_while_stays_in_use_and_that_is_told_once(content, tmp_path, caplog):
    file, clock = tmp_path / "token", Clock()
    file.write_text("first")
    token = TokenFile(file, passed_s=clock)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    read = []
    for clock.now in (60.0, 61.0, 200.0):
        read.append(token.read())
    told = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    file.write_text("second")
    clock.now += 0.1
    read.append(token.read())

    assert read == ["first", "first", "first", "second"]
    assert len(told) == 1
    assert str(file) in told[0]


def test_that_a_token_cannot_be_read_is_told_anew_the_next_time(tmp_path, caplog):
    file, clock = tmp_path / "token", Clock()
    file.write_text("first")
    token = TokenFile(file, passed_s=clock)

    for clock.now, content in ((60.0, ""), (61.0, "second"), (200.0, "")):
        file.write_text(content)
        token.read()

    assert len(caplog.records) == 2


def test_a_refused_token_is_read_again_at_once(secure, account):
    client = KubeClient(ServiceAccount(account, variables(secure.port)), connect_timeout_s=1, read_timeout_s=1)
    client.get("/version")
    secure.token = "second"
    (account / "token").write_text("second")

    with pytest.raises(errors.Unauthorized):
        client.get("/version")
    found = client.get("/version")
    client.close()

    assert found["gitVersion"] == "v1.20.2"


def test_a_watch_that_is_refused_reads_the_token_again(secure, account, monkeypatch):
    monkeypatch.setattr(handlers, "REFUSED_S", 0.01)
    made = ServiceAccount(account, variables(secure.port))
    secure.token = "second"
    (account / "token").write_text("second")

    assert ask_as_watches_do(made) == "v1.20.2"
    assert len(secure.requests) == 2


# -- the proxy on the way ----------------------------------------------------------------------------------------------


class Proxy:
    """Tunnels every CONNECT to one port of this machine, whatever name is asked for; keeps what it was asked."""

    def __init__(self, port):
        self.asked = []
        self._to = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._open = [self._server]
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self):
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                self._open.append(near)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += near.recv(4096)
                self.asked.append(head.decode())
                self._open.append(far := socket.create_connection(("127.0.0.1", self._to)))
                near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                for one, other in ((near, far), (far, near)):
                    self._threads.append(threading.Thread(target=self._pump, args=(one, other)))
                    self._threads[-1].start()

    @staticmethod
    def _pump(one, other):
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def close(self):
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def far(tmp_path):
    """(server, service account, proxy): a server whose name no resolver knows, behind a proxy that does."""
    identity = server_identity(tmp_path, "k8s.test")
    with ApiServer(tls=server_tls(identity)) as api:
        proxy = Proxy(api.port)
        yield api, mount(tmp_path / "account", identity, token="first"), proxy
        proxy.close()


@WAYS
def test_a_server_behind_a_proxy_is_reached_by_it_under_its_own_certificate(way, far):
    _, account, proxy = far
    environ = {**variables(6443, "k8s.test"), "HTTPS_PROXY": f"http://ann:se%40cret@127.0.0.1:{proxy.port}"}

    found = way(ServiceAccount(account, environ))

    [head] = proxy.asked
    credentials = next(line for line in head.splitlines() if line.lower().startswith("proxy-authorization: basic "))
    assert found == "v1.20.2"
    assert head.startswith("CONNECT k8s.test:6443 ")
    assert b64decode(credentials.split()[-1]) == b"ann:se@cret"


def test_a_server_that_no_proxy_names_is_not_asked_for_by_the_proxy(far):
    _, account, proxy = far
    environ = {**variables(6443, "k8s.test"), "HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": ".test"}

    with pytest.raises(errors.Unreachable, match=r"k8s\.test"):
        ask(ServiceAccount(account, environ))

    assert proxy.asked == []


# -- a kubeconfig ------------------------------------------------------------------------------------------------------


def kubeconfig(file, server, *, cluster="", token="sesame", namespace="shop"):
    file.write_text(
        f"""
        apiVersion: v1
        kind: Config
        current-context: here
        contexts:
          - {{name: here, context: {{cluster: one, user: me, namespace: {namespace}}}}}
          - {{name: there, context: {{cluster: one, user: me}}}}
        clusters: [{{name: one, cluster: {{server: "{server}"{cluster}}}}}]
        users: [{{name: me, user: {{token: {token}}}}}]
        """
    )
    return str(file)


def test_a_kubeconfig_names_server_and_token(tmp_path):
    made = load_access(kubeconfig=kubeconfig(tmp_path / "config", "http://127.0.0.1:1"))

    assert made.endpoint().server == "http://127.0.0.1:1"
    assert made.authorization() == "Bearer sesame"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("current-context: nowhere\ncontexts: 3\n", id="contexts are no list"),
        pytest.param("users: [{token: sesame}\nrest", id="no YAML"),
        pytest.param("kind: Deployment\n---\nkind: WorkerPool\n", id="two documents"),
        pytest.param("- kind: Config\n", id="a list"),
        pytest.param("hello", id="a word"),
        pytest.param("", id="empty"),
    ],
)
def test_a_malformed_kubeconfig_is_told_by_name(tmp_path, content):
    file = tmp_path / "config"
    file.write_text(content)

    with pytest.raises(errors.SetupError, match=str(file)) as caught:
        load_access(kubeconfig=str(file))

    assert "sesame" not in str(caught.value)
    assert current_namespace(str(file), None) == "default"


@WAYS
def test_a_kubeconfig_that_gives_the_servers_name_for_tls_is_heeded(way, tmp_path):
    identity = server_identity(tmp_path, "k8s.example.com")
    with ApiServer(tls=server_tls(identity)) as api:
        cluster = f", tls-server-name: k8s.example.com, certificate-authority: {identity.certificate}"

        assert way(load_access(kubeconfig=kubeconfig(tmp_path / "config", api.url, cluster=cluster))) == "v1.20.2"


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@WAYS
def test_a_kubeconfig_that_says_not_to_verify_is_heeded(way, tmp_path, secure):
    cluster = ", insecure-skip-tls-verify: true"

    assert way(load_access(kubeconfig=kubeconfig(tmp_path / "config", secure.url, cluster=cluster, token="first")))


# -- which of them -----------------------------------------------------------------------------------------------------


@pytest.fixture
def around(monkeypatch, tmp_path, account):
    """around(pod=…, default=…): a process in a pod or not, with a kubeconfig at its usual place or not."""

    def surround(*, pod, default):
        for name, value in HERE.items():
            monkeypatch.setenv(name, value) if pod else monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(access, "SERVICE_ACCOUNT", account if pod else tmp_path / "absent")
        file = tmp_path / "usual"
        if default:
            kubeconfig(file, "https://usual.example")
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))

    return surround


@pytest.mark.parametrize(
    ("pod", "default", "named", "context", "server"),
    [
        pytest.param(True, True, True, None, "https://named.example", id="a named kubeconfig before all"),
        pytest.param(True, True, False, None, "https://10.0.0.1:443", id="a pod's account before the usual kubeconfig"),
        pytest.param(True, True, False, "there", "https://usual.example", id="a named context means a kubeconfig"),
        pytest.param(False, True, False, None, "https://usual.example", id="the usual kubeconfig outside a pod"),
    ],
)
def test_the_way_to_the_cluster_is_the_first_that_there_is(around, tmp_path, pod, default, named, context, server):
    around(pod=pod, default=default)
    file = kubeconfig(tmp_path / "named", "https://named.example") if named else None

    assert load_access(kubeconfig=file, context=context).endpoint().server == server


def test_without_any_way_all_that_was_tried_is_told(around, tmp_path):
    around(pod=False, default=False)

    with pytest.raises(errors.SetupError) as caught:
        load_access()

    said = str(caught.value)
    assert "in-cluster: KUBERNETES_SERVICE_HOST is not set" in said
    assert "KUBECONFIG or ~/.kube/config: Invalid kube-config file" in said
    assert "--kubeconfig or KUBECONFIG" in said


@pytest.mark.parametrize(
    ("pod", "named", "context", "namespace"),
    [
        pytest.param(True, False, None, "shop", id="the pod's"),
        pytest.param(True, True, None, "mail", id="the named file's current context"),
        pytest.param(True, True, "there", "default", id="a context that names none"),
        pytest.param(False, False, None, "mail", id="the usual file's"),
    ],
)
def test_the_current_namespace_is_that_of_the_way_to_the_cluster(around, tmp_path, pod, named, context, namespace):
    around(pod=pod, default=True)
    kubeconfig(tmp_path / "usual", "https://usual.example", namespace="mail")

    assert current_namespace(str(tmp_path / "usual") if named else None, context) == namespace


# -- without the package -----------------------------------------------------------------------------------------------


def as_in_the_image(account: Path, *arguments: str, **environ: str):
    """`celeriac-operator` as its image has it: (exit code, all it said)."""
    done = subprocess.run(
        [sys.executable, "-c", OPERATOR, str(account), *arguments], env=os.environ | environ, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["explain", "doctor", "run"])
def test_a_kubeconfig_without_the_package_says_what_to_install(command, account, tmp_path):
    file = kubeconfig(tmp_path / "config", "http://127.0.0.1:1")
    arguments = {"explain": ["shop/mails"], "doctor": [], "run": ["-n", "shop", "--http-port", "0"]}[command]

    code, said = as_in_the_image(account, command, *arguments, "--kubeconfig", file)

    assert code == 1
    assert "Traceback" not in said
    assert f"{file}: a kubeconfig needs the `kubernetes` package: pip install 'celeriac[operator]'" in said


def test_a_pod_without_an_account_and_without_the_package_is_told_both(tmp_path):
    code, said = as_in_the_image(tmp_path / "absent", "run", "-n", "shop", **variables(1))

    assert code == 1
    assert "in-cluster: " in said
    assert "token cannot be read: No such file or directory" in said
    assert "pip install 'celeriac[operator]'" in said


def test_doctor_looks_at_the_pods_own_namespace(secure, account):
    secure.put("namespaces", {"metadata": {"name": "shop"}}, namespace="")

    code, said = as_in_the_image(account, "doctor", **variables(secure.port))

    assert code in (0, 1), said
    assert "Kubernetes API: https://127.0.0.1" in said
    assert secure.sent("GET", "/namespaces/shop/workerpools")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["simulate", "--help"], ["version"]], ids=" ".join
)
def test_what_asks_no_cluster_needs_no_package(arguments, account):
    code, said = as_in_the_image(account, *arguments)

    assert code == 0, said
