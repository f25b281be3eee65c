"""The webhook over HTTP: whose fault decides the answer, and nothing happens on a dry run."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from injector.cluster.source import ClusterError
from injector.core.marks import Marks
from injector.core.model import (
    Additions,
    BuildInput,
    Event,
    Namespace,
    Object,
    Origin,
    Outcome,
    Owner,
    Profile,
)
from injector.core.owners import ObjectMeta
from injector.core.skips import SkipReason
from injector.core.values import Values
from injector.service.app import Injector, create_app, create_metrics_app, lookup_seconds
from injector.service.body import BodyReader
from injector.service.metrics import Metrics
from injector.service.review import MAX_WARNINGS
from injector.service.settings import Settings
from process.health import Health

ORIGIN = Origin(created_by="test", additions=True)
PATCH: list[Object] = [{"op": "add", "path": "/spec/x", "value": 1}]


@dataclass
class FakeCluster:
    """Knows one namespace and one owner, unless it is told to be away, or never to answer."""

    away: bool = False
    owner_away: bool = False
    silent: tuple[str, ...] = ()

    async def namespace(self, name: str) -> Namespace | None:
        if "namespace" in self.silent:
            await asyncio.Event().wait()
        if self.away:
            raise ClusterError("the API server does not answer")
        return Namespace(name) if name == "shop" else None

    async def owner(self, meta: ObjectMeta) -> Owner:
        assert meta.namespace == "shop"
        if "owner" in self.silent:
            await asyncio.Event().wait()
        if self.owner_away:
            raise ClusterError("the API server does not answer")
        return Owner("deployment", "web")


@dataclass
class FakeProfile:
    name: str
    ignores: frozenset[str] = frozenset()
    marks = Marks(profile="")

    def build(self, given: BuildInput) -> Additions:
        raise AssertionError(f"the fake core builds nothing: {given}")


@dataclass
class Sent:
    """An event sink that remembers."""

    events: list[tuple[str, Owner, Event]] = field(default_factory=list)

    def send(self, namespace: str, owner: Owner, events: Sequence[Event]) -> None:
        self.events += [(namespace, owner, event) for event in events]


@dataclass
class Setup:
    """A webhook whose core answers what the test says."""

    outcome: Outcome = field(
        default_factory=lambda: Outcome(
            {"patched": 1},
            injected=True,
            warnings=("proxy-cpu-limit: bad\n",),
            events=(Event("Injected", "done"),),
            annotation_at="namespace",
        )
    )
    error: Exception | None = None
    patch: list[Object] = field(default_factory=lambda: list(PATCH))
    cluster: FakeCluster = field(default_factory=FakeCluster)
    sent: Sent = field(default_factory=Sent)
    metrics: Metrics = field(default_factory=lambda: Metrics("test"))
    health: Health = field(default_factory=Health)
    bodies: BodyReader = field(default_factory=BodyReader)
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def mutate(
        self,
        obj: Object,
        namespace: Namespace,
        owner: Owner,
        values: Values,
        profile: Profile,
        origin: Origin,
    ) -> Outcome:
        self.asked.append((obj, namespace, owner, values, profile.name, origin))
        if self.error is not None:
            raise self.error
        return self.outcome

    def app(self) -> Any:
        injector = Injector(
            settings=Settings(profile="linkerd"),
            cluster=self.cluster,
            profiles=FakeProfile,
            mutate=self.mutate,
            diff=lambda _before, _after: self.patch,
            origin=ORIGIN,
        )
        return create_app(
            injector=injector,
            metrics=self.metrics,
            events=self.sent,
            health=self.health,
            bodies=self.bodies,
        )

    def post(
        self, body: bytes | AsyncIterator[bytes], path: str = "/", **headers: str
    ) -> httpx.Response:
        return _send(self.app(), "POST", path, content=body, headers=headers)

    def errors(self, cause: str) -> float | None:
        name = "proxy_inject_admission_errors_total"
        return self.metrics.registry.get_sample_value(name, {"cause": cause})


def _send(app: Any, method: str, path: str, **request: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        # An exception that the app lets through fails the test: raise_app_exceptions is on.
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://webhook") as client:
            return await client.request(method, path, **request)

    return asyncio.run(send())


def review(**request: Any) -> bytes:
    fields = {
        "uid": "u1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "shop",
        "operation": "CREATE",
        "object": {"metadata": {"generateName": "web-"}},
    }
    tree = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {**fields, **request},
    }
    return json.dumps(tree).encode()


@pytest.fixture
def setup() -> Setup:
    return Setup()


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


@pytest.mark.parametrize("path", ["/", "/mutate", "/?timeout=10s", "/mutate?timeout=10s"])
def test_a_review_is_answered_on_both_paths(setup: Setup, path: str) -> None:
    response = setup.post(review(), path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()["response"]
    assert (answer["uid"], answer["allowed"]) == ("u1", True)
    assert json.loads(base64.b64decode(answer["patch"])) == PATCH
    assert answer["warnings"] == ["proxy-cpu-limit: bad\\n"]
    assert answer["auditAnnotations"] == {"result": "injected"}


def test_the_core_gets_what_the_shell_knows(setup: Setup) -> None:
    setup.post(review())
    [(obj, namespace, owner, values, profile, origin)] = setup.asked
    assert obj == {"metadata": {"generateName": "web-"}}
    assert (namespace, owner) == (Namespace("shop"), Owner("deployment", "web"))
    assert (values.meshgraft.profile, profile, origin) == ("linkerd", "linkerd", ORIGIN)


REPLICA_SET = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d", "uid": "r"}


@pytest.mark.parametrize(
    "cluster", [FakeCluster(owner_away=True), FakeCluster(silent=("owner",))], ids=["away", "slow"]
)
def test_an_owner_that_cannot_be_looked_up_is_the_direct_one(cluster: FakeCluster) -> None:
    setup = Setup(cluster=cluster)
    metadata = {"generateName": "web-", "ownerReferences": [REPLICA_SET]}
    response = setup.post(review(object={"metadata": metadata}), "/?timeout=200ms")
    assert response.status_code == 200
    [(_, _, owner, *_)] = setup.asked
    assert owner == Owner("replicaset", "web-5d", "apps/v1", "r")


def test_the_answer_comes_before_the_api_server_gives_up(logged: list[Any]) -> None:
    setup = Setup(cluster=FakeCluster(silent=("namespace", "owner")))
    begun = time.monotonic()
    response = setup.post(review(), "/?timeout=500ms")
    assert time.monotonic() - begun < 0.5
    assert response.status_code == 500
    assert "did not answer within 0.2 s" in response.text
    assert setup.errors("cluster") == 1


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [("", 2), ("10s", 2), ("30s", 2), ("1s", 0.4), ("500ms", 0.2), ("0s", 2), ("nonsense", 2)],
)
def test_a_look_up_takes_its_share_of_the_time_there_is(timeout: str, seconds: float) -> None:
    assert lookup_seconds(timeout) == pytest.approx(seconds)


def test_who_did_not_ask_for_a_proxy_gets_no_event(setup: Setup) -> None:
    skipped = (Event("InjectionSkipped", "why"),)
    setup.outcome = Outcome({}, injected=False, reasons=(SkipReason.ENABLE_ABSENT,), events=skipped)
    setup.post(review())
    assert setup.sent.events == []
    setup.outcome = Outcome({}, injected=False, reasons=(SkipReason.HOST_NETWORK,), events=skipped)
    setup.post(review())
    assert [event for *_, event in setup.sent.events] == list(skipped)


def test_a_service_has_no_owner_but_itself(setup: Setup) -> None:
    setup.post(review(kind={"kind": "Service", "version": "v1"}, name="db"))
    assert setup.asked[0][2] == Owner("service", "db")


def test_a_skip_tells_the_audit_log_why(setup: Setup) -> None:
    reasons = (SkipReason.HOST_NETWORK, SkipReason.DISABLED)
    setup.outcome, setup.patch = Outcome({}, injected=False, reasons=reasons), []
    answer = setup.post(review()).json()["response"]
    assert "patch" not in answer
    assert "patchType" not in answer
    assert answer["auditAnnotations"] == {
        "result": "skipped",
        "reasons": "host_network_enabled,injection_disable_annotation_present",
    }


@pytest.mark.parametrize(
    "request_fields",
    [{"operation": "UPDATE"}, {"subResource": "ephemeralcontainers"}],
    ids=["update", "subresource"],
)
def test_what_is_not_a_new_pod_passes_unchanged(
    setup: Setup, request_fields: dict[str, str]
) -> None:
    setup.patch = []
    answer = setup.post(review(**request_fields)).json()["response"]
    assert answer["allowed"] is True
    assert "patch" not in answer
    assert setup.asked == []


def _break_core(setup: Setup) -> None:
    setup.error = KeyError("containers")


def _break_diff(setup: Setup) -> None:
    setup.patch = [{"value": object()}]


def _lose_cluster(setup: Setup) -> None:
    setup.cluster.away = True


@pytest.mark.parametrize(
    ("breaks", "request_fields", "cause", "sentence"),
    [
        (_break_core, {}, "internal", "internal error (KeyError: 'containers')"),
        (_break_diff, {}, "internal", "internal error (TypeError"),
        (_lose_cluster, {}, "cluster", "the API server does not answer"),
        (
            lambda _setup: None,
            {"namespace": "new"},
            "namespace_unknown",
            'namespace "new" is not known',
        ),
    ],
)
def test_a_fault_of_ours_is_http_500_so_that_the_failure_policy_decides(
    setup: Setup,
    logged: list[Any],
    breaks: Callable[[Setup], None],
    request_fields: dict[str, str],
    cause: str,
    sentence: str,
) -> None:
    breaks(setup)
    response = setup.post(review(**request_fields))
    namespace = request_fields.get("namespace", "shop")
    assert response.status_code == 500
    assert f"cannot decide about pod {namespace}/web-" in response.text
    assert sentence in response.text
    assert "failurePolicy" in response.text
    assert response.headers["content-type"].startswith("text/plain")
    assert setup.errors(cause) == 1
    assert [(line["event"], line["log_level"]) for line in logged] == [("review failed", "error")]


@pytest.mark.parametrize(
    ("body", "status", "cause"),
    [
        (b"", 400, "bad_request"),
        (b"not json", 400, "bad_request"),
        (review(uid=""), 400, "bad_request"),
        (review(object=None), 400, "bad_request"),
        (b" " * (10 * 1024 * 1024 + 1), 413, "too_large"),
    ],
    ids=["empty", "not json", "no uid", "null object", "too large"],
)
def test_a_fault_of_the_sender_is_refused_with_a_sentence(
    setup: Setup, logged: list[Any], body: bytes, status: int, cause: str
) -> None:
    response = setup.post(body)
    assert response.status_code == status
    assert len(response.text.strip()) > 10
    assert response.headers["content-type"].startswith("text/plain")
    assert setup.errors(cause) == 1
    assert logged[0]["event"] == "review refused"


async def _chunks(count: int, *, forever: bool = False) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b" " * 1000
    if forever:
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("bodies", "count", "forever", "status"),
    [
        (BodyReader(limit=5000), 6, True, 413),
        (BodyReader(seconds=0.05), 1, True, 408),
        (BodyReader(total=5000), 6, True, 503),
        (BodyReader(limit=5000, total=5000), 5, False, 400),
    ],
    ids=["too large", "too slow", "too many", "just right, but blank"],
)
def test_bodies_without_a_length_are_bounded_too(
    setup: Setup, bodies: BodyReader, count: int, forever: bool, status: int
) -> None:
    setup.bodies = bodies
    for _ in range(2):  # the second time shows that the first gave its memory back
        response = setup.post(_chunks(count, forever=forever))
        assert response.status_code == status
        assert response.headers["connection"] == "close"


@pytest.mark.parametrize("length", ["10485761", "9" * 5000])
def test_a_declared_length_is_believed_before_the_body_comes(setup: Setup, length: str) -> None:
    headers = {"content-length": length}
    assert setup.post(_chunks(1, forever=True), **headers).status_code == 413


def test_a_client_that_leaves_is_no_defect(setup: Setup, logged: list[Any]) -> None:
    messages = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    answers: list[Any] = []

    async def send(message: Any) -> None:
        answers.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    asyncio.run(setup.app()(scope, receive, send))
    assert answers[0]["status"] == 400
    assert "went away" in logged[0]["error"]


@pytest.mark.parametrize(("dry_run", "count"), [(False, 1), (True, 0)])
def test_events_are_sent_but_never_for_a_dry_run(setup: Setup, dry_run: bool, count: int) -> None:
    assert setup.post(review(dryRun=dry_run)).status_code == 200
    event = ("shop", Owner("deployment", "web"), Event("Injected", "done"))
    assert setup.sent.events == [event] * count


def test_each_review_is_one_log_line(setup: Setup, logged: list[Any]) -> None:
    setup.post(review(dryRun=True))
    [line] = logged
    assert line.pop("durationSeconds") >= 0
    assert line == {
        "event": "review answered",
        "log_level": "info",
        "pod": "shop/web-",
        "requestUid": "u1",
        "dryRun": True,
        "owner": "deployment/web",
        "injected": True,
        "reasons": [],
        "warnings": ["proxy-cpu-limit: bad\\n"],
        "operations": 1,
    }


def test_a_log_line_holds_no_more_warnings_than_the_answer(logged: list[Any]) -> None:
    many = tuple(f"warning {number}" for number in range(5000))
    answer = Setup(outcome=Outcome({}, injected=True, warnings=many)).post(review()).json()
    [line] = logged
    assert line["warnings"] == answer["response"]["warnings"]
    assert len(line["warnings"]) == MAX_WARNINGS


def test_an_answer_is_counted(setup: Setup) -> None:
    setup.post(review())
    labels = {"owner_kind": "deployment", "namespace": "shop", "annotation_at": "namespace"}
    sample = setup.metrics.registry.get_sample_value
    assert sample("proxy_inject_admission_requests_total", labels) == 1
    assert sample("proxy_inject_admission_duration_seconds_count") == 1


def test_a_namespace_that_nobody_vouches_for_is_no_label(setup: Setup) -> None:
    """Anyone in the cluster network may send reviews, and each label costs memory for ever."""
    setup.post(review(operation="UPDATE", namespace="made-up"))
    setup.post(review(namespace="made-up"))
    text, _ = setup.metrics.render("")
    assert b"made-up" not in text


def test_while_draining_clients_are_sent_to_another_replica(setup: Setup) -> None:
    assert "connection" not in setup.post(review()).headers
    setup.health.draining = True
    response = setup.post(review())
    assert (response.status_code, response.headers["connection"]) == (200, "close")


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/metrics", "/mutate/"])
def test_the_tls_port_serves_nothing_else(setup: Setup, path: str) -> None:
    assert _send(setup.app(), "GET", path).status_code == 404


def _probe(setup: Setup, path: str, *, tls_port: bool) -> tuple[int, str]:
    health, metrics = setup.health, setup.metrics
    app = setup.app() if tls_port else create_metrics_app(metrics=metrics, health=health)
    response = _send(app, "GET", path)
    return response.status_code, response.text


@pytest.mark.parametrize("tls_port", [True, False])
def test_kubernetes_probes_answer_on_both_ports(setup: Setup, tls_port: bool) -> None:
    assert _probe(setup, "/livez", tls_port=tls_port) == (200, "ok\n")
    assert _probe(setup, "/readyz", tls_port=tls_port) == (
        500,
        "[-]serving failed: not listening yet\n[+]shutdown ok\nreadyz check failed\n",
    )
    setup.health.serving = True
    assert _probe(setup, "/readyz", tls_port=tls_port) == (200, "ok\n")
    assert _probe(setup, "/readyz?verbose", tls_port=tls_port) == (
        200,
        "[+]serving ok\n[+]shutdown ok\nreadyz check passed\n",
    )
    assert "check passed" in _probe(setup, "/livez?verbose", tls_port=tls_port)[1]


def test_linkerds_probes_answer_as_linkerds(setup: Setup) -> None:
    assert _probe(setup, "/ping", tls_port=False) == (200, "pong\n")
    assert _probe(setup, "/ready", tls_port=False) == (500, "not ready\n")
    setup.health.serving = True
    assert _probe(setup, "/ready", tls_port=False) == (200, "ok\n")
    setup.health.draining = True
    assert _probe(setup, "/ready", tls_port=False) == (500, "not ready\n")


def test_a_check_of_ones_own_decides_too(setup: Setup) -> None:
    setup.health = Health({"certificate": lambda: "expired"})
    setup.health.serving = True
    status, text = _probe(setup, "/readyz", tls_port=False)
    assert status == 500
    assert "[-]certificate failed: expired" in text


def test_metrics_are_served_on_the_plain_port(setup: Setup) -> None:
    status, text = _probe(setup, "/metrics", tls_port=False)
    assert status == 200
    assert "# TYPE proxy_inject_admission_requests_total counter" in text


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    ["uid", "kind", "namespace", "name", "operation", "object", "dryRun", "options"]
)


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(overrides=st.dictionaries(_FIELDS, _JSON, max_size=3), whole=st.none() | _JSON)
def test_no_json_makes_an_unhandled_exception(overrides: dict[str, Any], whole: Any) -> None:
    body = json.dumps(whole).encode() if whole is not None else review(**overrides)
    response = Setup().post(body)
    unknown = "is not known to the injector" in response.text
    assert response.status_code in (200, 400) or (response.status_code == 500 and unknown)
