"""`helm test` on a real cluster: it passes where all is well, and says what is wrong where it is not."""

import pytest
from charts import OPERATOR, WORKER
from clusters import Cluster, Images

pytestmark = pytest.mark.slow


def test_the_operators_release_is_found_well_with_its_rights_and_ill_without(cluster: Cluster, images: Images) -> None:
    cluster.install_operator(OPERATOR, images)

    cluster.helm("test", "celeriac")
    said = cluster.kubectl("logs", "celeriac-celeriac-operator-test")
    assert "/readyz: serving" in said
    assert f"permissions of this user in {cluster.namespace}: has all that the operator needs" in said

    cluster.helm("upgrade", "celeriac", OPERATOR, "--reuse-values", "--set", "rbac.create=false")
    with pytest.raises(AssertionError, match="celeriac-celeriac-operator-test"):
        cluster.helm("test", "celeriac")
    assert "FAILED error" in cluster.kubectl("logs", "celeriac-celeriac-operator-test")


def test_a_workers_release_is_found_well_with_a_worker_and_ill_without_the_one_it_ought_to_have(
    cluster: Cluster, images: Images
) -> None:
    cluster.install_workers(WORKER, images, concurrency=1)
    cluster.helm("upgrade", "shop", WORKER, "--reuse-values", "--set", "replicas=1")

    cluster.helm("test", "shop")
    assert "celeriac@shop-celeriac-worker-" in cluster.kubectl("logs", "shop-celeriac-worker-test")

    cluster.kubectl("scale", "deployment", "shop-celeriac-worker", "--replicas=0")
    cluster.kubectl("wait", "pod", "--for=delete", "-l", "app.kubernetes.io/component=worker", "--timeout=110s")
    with pytest.raises(AssertionError, match="shop-celeriac-worker-test"):
        cluster.helm("test", "shop")
    assert "workers that answer, of 1 or more: 0" in cluster.kubectl("logs", "shop-celeriac-worker-test")
