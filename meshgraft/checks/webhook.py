"""Checks of the webhook's registration: asked about what it should be, and about nothing else."""

from __future__ import annotations

from injector.core.model import Namespace
from kubeapi import reading
from meshgraft.audit.judge import who_meshed
from meshgraft.audit.model import labels_of, webhook_of
from meshgraft.checks.model import Category, Check, Options, Ref, Skip, Snapshot, Trial
from meshgraft.checks.parts import WEBHOOK, config_map, deployment, pods, webhooks
from meshgraft.installed import INJECTOR
from vocabulary.annotations import INJECT

_REINSTALL = "Install the injector again: meshgraft install | kubectl apply -f -"
_NAME = "kubernetes.io/metadata.name"


def _has_one(snapshot: Snapshot) -> str | None:
    found = snapshot.need(WEBHOOK)
    count = len(found.get("webhooks") or ())
    # Opt-in by label takes two that exclude each other: the namespace's label, or the pod's.
    wanted = 2 if webhook_of(found).by_label else 1
    return None if count == wanted else f"expected {wanted} webhooks, found {count}"


def _calls_our_service(snapshot: Snapshot) -> str | None:
    namespace = snapshot.options.mesh_namespace
    for webhook in webhooks(snapshot):
        service = (webhook.get("clientConfig") or {}).get("service") or {}
        if (service.get("namespace"), service.get("name")) != (namespace, INJECTOR):
            called = f"{service.get('namespace')}/{service.get('name')}" if service else "a URL"
            return f"{webhook.get('name')} calls {called}, not Service {namespace}/{INJECTOR}"
    return None


def _spares(snapshot: Snapshot, name: str) -> str | None:
    """The complaint that pods of a namespace are sent to the webhook."""
    webhook = webhook_of(snapshot.need(WEBHOOK))
    where = Namespace(name, {}, {_NAME: name})
    if webhook.excludes(where, {}):
        return None
    return f"namespace {name} is not excluded by the namespaceSelector"


def _spares_system(snapshot: Snapshot) -> str | None:
    return _spares(snapshot, "kube-system")


def _spares_itself(snapshot: Snapshot) -> str | None:
    """Its own pods must come up while no webhook is there: by their namespace, or their labels."""
    problem = _spares(snapshot, snapshot.options.mesh_namespace)
    if problem is None:
        return None
    webhook = webhook_of(snapshot.need(WEBHOOK))
    where = Namespace(snapshot.options.mesh_namespace)
    replicas = snapshot.all(pods(snapshot.options))
    spared = [webhook.excludes(where, labels_of(pod)) for pod in replicas]
    return None if replicas and all(spared) else problem


def _policy(snapshot: Snapshot) -> str | None:
    policy = webhooks(snapshot)[0].get("failurePolicy") or "Fail"
    spec = snapshot.need(deployment(snapshot.options)).get("spec") or {}
    replicas = spec.get("replicas", 1)
    if policy == "Fail" and replicas < 2:
        return (
            f"failurePolicy is Fail with {replicas} replica: while it restarts, no pod can be"
            " created"
        )
    if policy == "Ignore" and replicas > 1:
        return (
            f"failurePolicy is Ignore with {replicas} replicas: pods that are created while none"
            " answers start without a proxy"
        )
    return None


def _trial(options: Options) -> Trial:
    return Trial(options.namespace or "default")


def _namespace(options: Options) -> Ref:
    return Ref(reading.NAMESPACES, _trial(options).namespace)


def _works(snapshot: Snapshot) -> str | None:
    """By asking: a registration and a ready injector say nothing of the way between them."""
    trial = _trial(snapshot.options)
    meta = snapshot.need(_namespace(snapshot.options))["metadata"]
    where = Namespace(trial.namespace, meta.get("annotations") or {}, meta.get("labels") or {})
    asked = {INJECT: "enabled"}
    if webhook_of(snapshot.need(WEBHOOK)).excludes(where, asked):
        raise Skip
    pod = snapshot.tried(trial)
    if who_meshed(pod) == "webhook":
        return None
    return (
        f"a pod in namespace {trial.namespace} that asks for a proxy would start without one: the "
        "API server does not reach the webhook, or the webhook does not answer"
    )


WEBHOOK_CONFIG = Category(
    name="meshgraft-webhook-config",
    applies=lambda options: not options.pre,
    objects=lambda options: (
        WEBHOOK,
        deployment(options),
        _namespace(options),
        config_map(options),
    ),
    trials=lambda options: (_trial(options),),
    lists=lambda options: (pods(options),),
    checks=(
        Check(
            id="meshgraft-webhook-count",
            text="proxy-injector webhook is registered once",
            run=_has_one,
            fix=_REINSTALL,
            why="With none, no pod gets a proxy; with several, pods are injected twice or by"
            " somebody else.",
        ),
        Check(
            id="meshgraft-webhook-service",
            text="proxy-injector webhook calls the injector's Service",
            run=_calls_our_service,
            fix=_REINSTALL,
            why="The API server sends new pods somewhere else.",
        ),
        Check(
            id="meshgraft-webhook-kube-system",
            text="pod injection disabled on kube-system",
            run=_spares_system,
            fix="Take the namespaceSelector of the chart, or add kube-system to yours.",
            why="With failurePolicy Fail, an outage of the webhook would keep the cluster's own"
            " pods from starting.",
        ),
        Check(
            id="meshgraft-webhook-itself",
            text="pod injection disabled on the injector itself",
            run=_spares_itself,
            fix="Take the namespaceSelector of the chart, or add this namespace to yours.",
            why="With failurePolicy Fail, the injector could not start again after an outage: its"
            " own pods would wait for it.",
        ),
        Check(
            id="meshgraft-webhook-failure-policy",
            text="failurePolicy fits the number of replicas",
            run=_policy,
            fix="Install with --ha, which has three replicas and failurePolicy Fail, or with"
            " neither.",
            why="Fail turns each restart of a single replica into an outage of the cluster; Ignore"
            " leaves gaps, which meshgraft audit finds.",
            warning=True,
        ),
        Check(
            id="meshgraft-webhook-works",
            text="a pod that asks for a proxy would get one",
            run=_works,
            fix="Look at the injector's log, at NetworkPolicies of its namespace, and at whether"
            " the control plane reaches pods at all.",
            why="Asked as a dry run, through all of admission. With failurePolicy Ignore nothing"
            " else tells of a webhook that is not reached: every pod starts without a proxy.",
            retriable=True,
        ),
    ),
)
