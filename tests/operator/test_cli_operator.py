"""`celeriac-operator`: its commands in this process, and `run` as a process of its own against an API server here."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
import yaml
from apiserver import ApiServer
from certificates import identity
from click.testing import CliRunner
from objects import deployment, worker_pool
from pods import OPERATOR, mount, server_identity, server_tls, variables
from servers import free_port

from celeriac_operator.cli import cli, words


def invoke(*arguments, **env):
    return CliRunner().invoke(cli, arguments, env={"KUBECONFIG": os.devnull, "KUBERNETES_SERVICE_HOST": None, **env})


@pytest.fixture
def kubeconfig(api, tmp_path):
    file = tmp_path / "kubeconfig"
    file.write_text(
        f"""
        apiVersion: v1
        kind: Config
        current-context: here
        contexts: [{{name: here, context: {{cluster: one, user: me}}}}]
        clusters: [{{name: one, cluster: {{server: "{api.url}"}}}}]
        users: [{{name: me, user: {{token: sesame}}}}]
        """
    )
    return str(file)


@pytest.mark.parametrize("command", ["run", "up", "explain", "crd", "version"])
def test_every_command_and_every_option_has_help(command):
    result = invoke(command, "--help")

    assert result.exit_code == 0
    context = cli.make_context("celeriac-operator", [command], resilient_parsing=True)
    found = cli.get_command(context, command)
    assert [option.name for option in found.params if option.param_type_name == "option" and not option.help] == []


def test_version_is_for_people_and_for_programs():
    text, machine = invoke("version").output, json.loads(invoke("version", "--json").output)

    assert set(machine) == {"celeriac-operator", "kopf", "kubernetes", "kombu"}
    assert f"kopf {machine['kopf']}" in text
    assert invoke("--version").output == f"celeriac-operator, version {machine['celeriac-operator']}\n"


def test_the_crd_is_the_charts_own():
    document = yaml.safe_load(invoke("crd").output)

    assert document["metadata"]["name"] == "workerpools.celeriac.dev"
    assert document == json.loads(invoke("crd", "--json").output)


def test_the_crd_can_be_had_without_rules_that_old_servers_refuse():
    with_rules, without = invoke("crd").output, invoke("crd", "--no-rules").output

    assert "x-kubernetes-validations" in with_rules
    assert "x-kubernetes-validations" not in without
    assert yaml.safe_load(without)["spec"]["names"]["kind"] == "WorkerPool"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "outside a pod, name what to serve with --namespace or --all-namespaces", id="nowhere"),
        pytest.param(["-n", "shop", "-A"], "exclude each other", id="some and all"),
        pytest.param(["-n", "shop*"], "'shop*' is not the name of a namespace", id="a pattern"),
        pytest.param(["-n", "shop", "--lease", "a/b"], "--lease is of use only with --ha", id="lease without ha"),
        pytest.param(["-n", "shop", "--ha"], "--ha needs --lease NAMESPACE/NAME", id="ha outside a pod"),
        pytest.param(
            ["-n", "shop", "--ha", "--lease", "b"], "'b' is not NAMESPACE/NAME", id="a lease without namespace"
        ),
        pytest.param(
            ["-n", "shop", "--signing-key", "k"], "--signing-certificate belong together", id="half a signature"
        ),
        pytest.param(["-n", "shop", "--http-port", "x"], "is not a valid integer", id="a port that is none"),
        pytest.param(["-n", "shop", "--kubeconfig", "/absent"], "'/absent' does not exist", id="no kubeconfig there"),
    ],
)
def test_run_refuses_what_it_cannot_do_and_says_why(arguments, message):
    result = invoke("run", *arguments)

    assert result.exit_code == 2
    assert message in result.output


STATUS = {
    "replicas": 2,
    "readyReplicas": 1,
    "desiredReplicas": 3,
    "decision": {
        "summary": "3 pods: steady 2.0 + backlog 1.0",
        "limitedBy": "none",
        "time": "2026-11-22T10:00:00Z",
        "terms": {"steady": "2.0", "backlog": "1.0"},
    },
    "conditions": [
        {"type": "Ready", "status": "True", "reason": "Decided", "message": "all is well"},
        {"type": "ScaleUpBlocked", "status": "True", "reason": "QuotaExceeded", "message": "1 pod was refused"},
        {"type": "BrokerReachable", "status": "False", "reason": "Refused", "message": "nobody listens"},
        {"type": "CommandsNotHeeded", "status": "True", "reason": "SigningKeyMissing", "message": "there is no key"},
        {"type": "RateLimited", "status": "False", "reason": "NotLimited", "message": "not limited"},
    ],
}


def test_a_status_is_told_in_words_with_what_stands_in_the_way_and_nothing_else():
    text = "\n".join(words("shop/mails", {"status": STATUS}))

    assert "shop/mails: 3 pods: steady 2.0 + backlog 1.0" in text
    assert "replicas: now 2, ready 1, desired 3" in text
    assert "ScaleUpBlocked=True QuotaExceeded: 1 pod was refused" in text
    assert "BrokerReachable=False Refused: nobody listens" in text
    assert "CommandsNotHeeded=True SigningKeyMissing: there is no key" in text
    assert "all is well" not in text
    assert "not limited" not in text


def test_a_dry_run_is_told_beside_what_the_target_had():
    change = {"time": "2026-11-22T09:00:00Z", "from": 2, "to": 3, "reason": "3 pods: more work"}
    dry = {"since": "a", "until": "b", "podHours": "3.5", "targetPodHours": "9.25", "changes": [change]}

    text = "\n".join(words("shop/mails", {"status": {**STATUS, "dryRun": dry}}))

    assert "dry run since a, until b: 3.5 pod-hours would have been used, the target had 9.25" in text
    assert "2026-11-22T09:00:00Z 2 -> 3: 3 pods: more work" in text


def test_explain_reads_the_pool_from_the_cluster(api, kubeconfig):
    api.put("workerpools", {**worker_pool(), "status": STATUS})

    told = invoke("explain", "shop/mails", "--kubeconfig", kubeconfig)
    machine = invoke("explain", "shop/mails", "--kubeconfig", kubeconfig, "--json")

    assert told.output.startswith("shop/mails: 3 pods")
    assert json.loads(machine.output) == {**STATUS, "alternatives": []}


def test_explain_of_a_pool_without_a_decision_asks_for_an_operator(api, kubeconfig):
    api.put("workerpools", worker_pool())

    assert (
        "no decision yet. Is an operator serving" in invoke("explain", "shop/mails", "--kubeconfig", kubeconfig).output
    )


@pytest.mark.parametrize(
    ("pool", "code", "message"),
    [
        pytest.param("shop/none", 1, "there is no WorkerPool shop/none", id="no such pool"),
        pytest.param("mails", 2, "is not NAMESPACE/NAME", id="no namespace"),
    ],
)
def test_explain_says_what_is_wrong_with_its_argument(api, kubeconfig, pool, code, message):
    result = invoke("explain", pool, "--kubeconfig", kubeconfig)

    assert (result.exit_code, message in result.output) == (code, True)


class Operator:
    """`celeriac-operator run` as a process, its port and what it logged."""

    def __init__(self, process, port, log):
        self.process, self.port, self._log = process, port, log

    @property
    def log(self):
        return self._log.read_text()

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


@contextmanager
def running(kubeconfig, tmp_path, *arguments):
    program = ["from celeriac_operator.cli import main; main()"]
    with started(program, "--kubeconfig", kubeconfig, *arguments, tmp_path=tmp_path, environ=os.environ) as operator:
        yield operator


@contextmanager
def started(program, *arguments, tmp_path, environ):
    port = free_port()
    log = tmp_path / "log"
    run = ["run", "--http-host", "127.0.0.1", "--http-port", str(port), *arguments]
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", *program, *run], stdout=out, stderr=subprocess.STDOUT, env=environ
        )
    try:
        yield Operator(process, port, log)
    finally:
        process.kill()
        process.wait()


def test_run_becomes_ready_and_ends_on_sigterm(api, kubeconfig, tmp_path, eventually):
    api.put("deployments", deployment())
    with running(kubeconfig, tmp_path, "-n", "shop") as operator:
        eventually(lambda: operator.get("/readyz")[0] == 200, within_s=20)

        alive, page, nothing = operator.get("/livez"), operator.get("/metrics"), operator.get("/other")
        started_at = time.monotonic()
        code = operator.stop()

        assert alive[0] == 200
        assert "celeriac_operator_leader 1.0" in page[1]
        assert nothing == (404, "try /livez, /readyz or /metrics\n")
        assert code == 0
        assert time.monotonic() - started_at < 10
        assert "Traceback" not in operator.log


def test_run_signs_with_the_key_that_the_environment_names(api, kubeconfig, tmp_path, eventually, monkeypatch):
    who = identity(tmp_path, "operator", password="dragon")
    for name, value in {"KEY": who.key, "CERTIFICATE": who.certificate, "KEY_PASSWORD": "dragon"}.items():
        monkeypatch.setenv(f"CELERIAC_OPERATOR_SIGNING_{name}", str(value))
    with running(kubeconfig, tmp_path, "-n", "shop") as operator:
        eventually(lambda: operator.get("/readyz")[0] == 200, within_s=20)

        assert "celeriac_operator_signing_certificate_expiry_timestamp_seconds" in operator.get("/metrics")[1]
        assert "commands to workers that demand it are signed as DE operator" in operator.log
        assert "dragon" not in operator.log
        assert operator.stop() == 0


def test_run_with_an_expired_certificate_serves_and_says_so(api, kubeconfig, tmp_path, eventually):
    who = identity(tmp_path, "operator", days=(-2, -1))
    key = ["--signing-key", str(who.key), "--signing-certificate", str(who.certificate)]
    with running(kubeconfig, tmp_path, "-n", "shop", *key) as operator:
        eventually(lambda: operator.get("/readyz")[0] == 200, within_s=20)
        assert f"--signing-certificate {who.certificate}, which expired at" in operator.log


def test_run_does_not_start_with_a_key_that_cannot_be_used(api, kubeconfig, tmp_path):
    who = identity(tmp_path, "operator", password="dragon")
    key = ["--signing-key", str(who.key), "--signing-certificate", str(who.certificate)]
    with running(kubeconfig, tmp_path, "-n", "shop", *key, "--signing-key-password", "wyvern") as operator:
        assert operator.process.wait(90) == 1
        assert f"Error: --signing-key '{who.key}' cannot be used" in operator.log
        assert "wyvern" not in operator.log


def test_run_in_a_pod_needs_what_is_mounted_there_and_no_kubernetes_package(tmp_path, eventually):
    server = server_identity(tmp_path)
    account = mount(tmp_path / "account", server, token="first", namespace="mail")
    with ApiServer(tls=server_tls(server)) as api:
        api.token = "first"
        api.put("deployments", deployment(), namespace="mail")
        api.put("workerpools", worker_pool(maxReplicas=3), namespace="mail")
        environ = os.environ | variables(api.port)
        with started([OPERATOR, str(account)], "--ha", tmp_path=tmp_path, environ=environ) as operator:
            eventually(lambda: api.get("workerpools", "mails", "mail").get("status"), within_s=20)
            eventually(lambda: operator.get("/readyz")[0] == 200, within_s=20)  # the watches are up, too

            assert api.get("leases", "celeriac-operator", "mail")["spec"]["holderIdentity"]
            assert operator.stop() == 0
            assert "Traceback" not in operator.log


def test_a_pool_without_a_broker_is_told_so_in_its_status(api, kubeconfig, tmp_path, eventually):
    api.put("deployments", deployment())
    api.put("workerpools", worker_pool(maxReplicas=3))
    with running(kubeconfig, tmp_path, "-n", "shop") as operator:
        eventually(lambda: api.get("workerpools", "mails").get("status"), within_s=20)

        ready = next(c for c in api.get("workerpools", "mails")["status"]["conditions"] if c["type"] == "Ready")
        assert (ready["status"], ready["reason"]) == ("False", "BrokerMissing")
        assert operator.stop() == 0


def test_run_waits_for_the_crd_and_says_so_once(api, kubeconfig, tmp_path, eventually):
    api.hidden.add("/apis/celeriac.dev/v1alpha1")
    with running(kubeconfig, tmp_path, "-n", "shop") as operator:
        eventually(lambda: "waiting for the cluster" in operator.log, within_s=20)
        waiting = operator.get("/livez"), operator.get("/readyz")

        api.hidden.clear()
        eventually(lambda: operator.get("/readyz")[0] == 200, within_s=20)

        assert [status for status, _ in waiting] == [200, 503]
        assert operator.log.count("waiting for the cluster") == 1
        assert "apply the CRD" in operator.log


def test_run_ends_at_once_while_it_waits_for_a_server_that_is_away(api, kubeconfig, tmp_path, eventually):
    api.fail("*", "", status=503)
    with running(kubeconfig, tmp_path, "-n", "shop") as operator:
        eventually(lambda: "waiting for the cluster" in operator.log, within_s=20)

        assert operator.stop() == 0


def test_run_on_a_port_that_is_taken_says_which_option_to_change(api, kubeconfig, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        arguments = ["--http-host", "127.0.0.1", "--http-port", str(taken.getsockname()[1])]
        with running(kubeconfig, tmp_path, "-n", "shop", *arguments) as operator:
            code = operator.process.wait(90)

    assert code == 1
    assert "choose another with --http-port" in operator.log
