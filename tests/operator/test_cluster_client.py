"""The client against an API server in this process: objects as JSON, failures as our errors, nothing waits for ever."""

import time

import pytest
from apiserver import ApiServer
from objects import deployment

from celeriac_operator import errors
from celeriac_operator.cluster.client import JSON_PATCH, METADATA_ONLY

DEPLOYMENTS = "/apis/apps/v1/namespaces/shop/deployments"


def test_an_object_is_read_as_it_is(api, client):
    api.put("deployments", deployment("mails", replicas=3))

    found = client.get(f"{DEPLOYMENTS}/mails")

    assert (found["kind"], found["spec"]["replicas"]) == ("Deployment", 3)


def test_a_list_is_read_page_by_page_and_its_items_know_their_kind(api, client):
    for number in range(5):
        api.put("deployments", deployment(f"d{number}"))

    found = list(client.items(DEPLOYMENTS, limit="2"))

    assert [item["metadata"]["name"] for item in found] == ["d0", "d1", "d2", "d3", "d4"]
    assert {item["kind"] for item in found} == {"Deployment"}
    assert len(api.sent("GET", DEPLOYMENTS)) == 3


def test_a_list_of_metadata_carries_nothing_else(api, client):
    api.put("deployments", deployment())

    (found,) = client.items(DEPLOYMENTS, accept=METADATA_ONLY)

    assert "spec" not in found
    assert found["metadata"]["name"] == "mails"


def test_a_write_names_us_as_its_manager(api, client):
    api.put("deployments", deployment())

    client.patch(f"{DEPLOYMENTS}/mails", {"metadata": {"labels": {"a": "b"}}})

    assert api.get("deployments", "mails")["metadata"]["labels"] == {"a": "b"}


def test_a_json_patch_replaces_a_part_as_a_whole(api, client):
    api.put("workerpools", {"metadata": {"name": "mails"}, "spec": {}, "status": {"old": 1}})

    patch = [{"op": "add", "path": "/status", "value": {"new": 2}}]
    path = "/apis/celeriac.dev/v1alpha1/namespaces/shop/workerpools/mails/status"
    client.patch(path, patch, content_type=JSON_PATCH)

    assert api.get("workerpools", "mails")["status"] == {"new": 2}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        pytest.param(400, errors.Invalid, id="400 is Invalid"),
        pytest.param(401, errors.Unauthorized, id="401 is Unauthorized"),
        pytest.param(403, errors.Forbidden, id="403 is Forbidden"),
        pytest.param(404, errors.NotFound, id="404 is NotFound"),
        pytest.param(409, errors.Conflict, id="409 is Conflict"),
        pytest.param(410, errors.Gone, id="410 is Gone"),
        pytest.param(418, errors.ClusterError, id="another 4xx is a ClusterError"),
        pytest.param(422, errors.Invalid, id="422 is Invalid"),
        pytest.param(429, errors.Throttled, id="429 is Throttled"),
        pytest.param(500, errors.ServerFailed, id="500 is ServerFailed"),
        pytest.param(503, errors.ServerFailed, id="503 is ServerFailed"),
    ],
)
def test_every_refusal_has_its_own_error_which_says_what_was_asked(api, client, status, error):
    api.fail("GET", DEPLOYMENTS, status=status)

    with pytest.raises(errors.ClusterError) as caught:
        client.get(DEPLOYMENTS)

    assert type(caught.value) is error
    assert caught.value.status == status
    assert str(caught.value).startswith(f"GET {DEPLOYMENTS}: {status}: as told")


def test_a_forbidden_request_says_where_the_verb_is_granted(api, client):
    api.fail("GET", DEPLOYMENTS, status=403)

    with pytest.raises(errors.Forbidden, match="grant the operator's Role this verb"):
        client.get(DEPLOYMENTS)


def test_after_a_429_nothing_is_sent_before_the_time_the_server_named(api, client):
    api.fail("GET", DEPLOYMENTS, status=429, times=1, headers={"Retry-After": "7"})

    with pytest.raises(errors.Throttled) as first:
        client.get(DEPLOYMENTS)
    with pytest.raises(errors.Throttled, match="not sent") as second:
        client.get(DEPLOYMENTS)

    assert first.value.retry_after_s == 7
    assert 6 < second.value.retry_after_s <= 7
    assert len(api.sent("GET", DEPLOYMENTS)) == 1


def test_a_server_that_does_not_answer_in_time_is_unreachable(api, client):
    api.fail("GET", DEPLOYMENTS, delay_s=1.5)
    started_at = time.monotonic()

    with pytest.raises(errors.Unreachable, match=f"no answer from the Kubernetes API at {api.url}"):
        client.get(DEPLOYMENTS)

    assert time.monotonic() - started_at < 1.2


def test_a_server_that_is_away_is_unreachable_and_found_again_when_it_is_back(make_client):
    with ApiServer() as first:
        client = make_client(of=first)
    with pytest.raises(errors.Unreachable, match="Connection refused"):
        client.get("/api")

    with ApiServer(port=first.port):
        found = client.get("/api")

    assert found["versions"] == ["v1"]


def test_an_answer_that_is_not_json_names_the_suspect(api, client):
    api.fail("GET", DEPLOYMENTS, status=200, body=b"<html>Log in, please</html>")

    with pytest.raises(errors.ServerFailed, match=r"not JSON; is http://.* really a Kubernetes API"):
        client.get(DEPLOYMENTS)


def test_the_token_is_sent_and_handed_on(api, make_client):
    api.token = "sesame"
    stranger, friend = make_client(), make_client(token="sesame")

    with pytest.raises(errors.Unauthorized, match="is the token expired"):
        stranger.get("/api")

    assert friend.get("/api")["versions"] == ["v1"]
    assert friend.access.authorization() == "Bearer sesame"
