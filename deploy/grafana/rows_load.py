# SPDX-License-Identifier: Apache-2.0
"""The dashboard's rows about calls: how many, how fast, how many failed."""

from __future__ import annotations

from panels import RED, YELLOW, Panel, Row, Target, bars, heatmap, stat, table, timeseries
from promql import Query, count, gauge, heat, mean, quantile, rate, total

FAILED = "!~OK|CANCELLED"
SHARE = [(0.8, YELLOW), (0.9, RED)]
BY_TENANT = ("attnd_sessions", "attnd_sequences")
REQUEST, STAGE = "attnd_request_duration_seconds", "attnd_stage_duration_seconds"


def at_a_glance() -> Row:
    """What one looks at first: is it well, how much does it do, what is near its end."""
    failed = rate("attnd_requests_total", code=FAILED)
    zero = Query(f"0 * {rate('attnd_requests_total').expr}", frozenset())
    share = Query(f"({failed.expr} or {zero.expr})", frozenset()).over(rate("attnd_requests_total"))
    slabs = gauge("attnd_pool_bytes", use="slabs").over(gauge("attnd_pool_bytes"))
    return Row(
        "At a glance",
        [
            Panel(
                "Failed devices",
                "Devices that were fenced after an error. Sequences there answer DATA_LOSS until a "
                "restart.",
                stat(
                    "none",
                    Target(gauge("attnd_devices", state="failed"), "failed"),
                    thresholds=[(1, RED)],
                    graph=False,
                ),
                3,
                4,
            ),
            Panel(
                "Requests",
                "Attend, AttendStream's requests and FlashAttention, a second.",
                stat("reqps", Target(rate("attnd_requests_total"), "requests")),
                3,
                4,
            ),
            Panel(
                "p99 latency",
                "From a call's arrival to its answer's hand-over to gRPC, of all methods.",
                stat("s", Target(quantile(0.99, REQUEST), "p99")),
                3,
                4,
            ),
            Panel(
                "Tokens attended",
                "Query tokens a second, once for each layer.",
                stat("short", Target(rate("attnd_tokens_attended_total"), "tokens")),
                3,
                4,
            ),
            Panel(
                "Failed requests",
                "Share of calls that end in an error; those that the client cancelled are none.",
                stat(
                    "percentunit", Target(share, "failed"), thresholds=[(0.01, YELLOW), (0.05, RED)]
                ),
                3,
                4,
            ),
            Panel(
                "Pool given to caches",
                "Share of the KV pool that caches hold; what is left can go to any cache.",
                stat("percentunit", Target(slabs, "slabs"), thresholds=SHARE),
                3,
                4,
            ),
            Panel(
                "Queued items",
                "Items submitted and not yet launched.",
                stat("short", Target(gauge("attnd_queue_items"), "items")),
                3,
                4,
            ),
            Panel(
                "Sessions",
                "Open sessions of the chosen tenants.",
                stat("short", Target(gauge("attnd_sessions"), "sessions")),
                3,
                4,
            ),
        ],
    )


def latency() -> Row:
    """Where a call's time goes."""
    per_call = total(STAGE, "stage").over(count(REQUEST))
    return Row(
        "Latency",
        [
            Panel(
                "Duration of requests",
                "p50 and p99 by method, as the daemon sees them: the network is not in it.",
                timeseries(
                    "s",
                    Target(quantile(0.5, REQUEST, "method"), "{{method}} p50"),
                    Target(quantile(0.99, REQUEST, "method"), "{{method}} p99"),
                    log=True,
                    least=None,
                ),
                12,
            ),
            Panel(
                "Duration of stages, p99",
                "stage_in: parsing and copying; queue: waiting for a launch; kernel: the launch; "
                "stage_out: the answer. Quantiles do not add up, the means beside do.",
                timeseries(
                    "s",
                    Target(quantile(0.99, STAGE, "stage"), "{{stage}}"),
                    log=True,
                    least=None,
                ),
                12,
            ),
            Panel(
                "Mean request by stage",
                "The mean duration of a request, cut into its stages.",
                timeseries("s", Target(per_call, "{{stage}}"), stacked=True),
                12,
            ),
            Panel(
                "Duration of stages by phase, p99",
                "Prefills are long and decodes are short: a decode that waits behind prefills is "
                "seen in decode's queue.",
                timeseries(
                    "s",
                    Target(
                        quantile(0.99, STAGE, "stage phase", phase="!=none"),
                        "{{stage}}, {{phase}}",
                    ),
                    log=True,
                    least=None,
                ),
                12,
            ),
            Panel(
                "Requests by duration",
                "How many requests took how long.",
                heatmap(heat(REQUEST), "s"),
                12,
                9,
            ),
            Panel(
                "Stage $stage by duration",
                "How many requests spent how long in the stage chosen above.",
                heatmap(heat(STAGE, stage="=~$stage"), "s"),
                12,
                9,
            ),
        ],
    )


def throughput() -> Row:
    """How much work is done, and in what portions."""
    return Row(
        "Throughput and batches",
        [
            Panel(
                "Tokens",
                "Attended: query tokens, once for each layer. Written: keys and values stored.",
                timeseries(
                    "short",
                    Target(rate("attnd_tokens_attended_total"), "attended a second"),
                    Target(rate("attnd_tokens_written_total"), "written a second"),
                ),
            ),
            Panel(
                "Tokens attended by tenant",
                "Who the device works for.",
                timeseries(
                    "short",
                    Target(
                        rate("attnd_tenant_tokens_attended_total", "tenant"), "tenant '{{tenant}}'"
                    ),
                    stacked=True,
                ),
            ),
            Panel(
                "Requests",
                "Calls a second by method.",
                timeseries("reqps", Target(rate("attnd_requests_total", "method"), "{{method}}")),
            ),
            Panel(
                "Batch size",
                "Items and requests that share a launch. Decodes pay for large batches: with 1 "
                "request a launch nothing was there to batch, or it came too late (max_linger).",
                timeseries(
                    "short",
                    Target(mean("attnd_batch_items"), "items, mean"),
                    Target(quantile(0.99, "attnd_batch_items"), "items, p99"),
                    Target(mean("attnd_batch_requests"), "requests, mean"),
                ),
            ),
            Panel(
                "Tokens of a launch",
                "Query tokens of a launch.",
                timeseries(
                    "short",
                    Target(mean("attnd_batch_tokens"), "mean"),
                    Target(quantile(0.99, "attnd_batch_tokens"), "p99"),
                    log=True,
                    least=None,
                ),
            ),
            Panel(
                "Items of a launch",
                "How many launches had how many items.",
                heatmap(heat("attnd_batch_items"), "short"),
            ),
            Panel(
                "Launches",
                "Launches a second.",
                timeseries("ops", Target(rate("attnd_launches_total"), "launches")),
                12,
            ),
            Panel(
                "Device at work",
                "Seconds that kernels ran a second: 1 is one device that is always at work.",
                timeseries(
                    "short", Target(rate("attnd_kernel_seconds_total", "instance"), "{{instance}}")
                ),
                12,
            ),
        ],
    )


def queue() -> Row:
    """What waits, and what was turned away."""

    def whole(name: str) -> str:
        # The limit is that of all tenants.
        return gauge(name, **({"tenant": "=~.*"} if name in BY_TENANT else {})).expr

    def use(resource: str, *gauges: str) -> Target:
        used = " + ".join(whole(name) for name in gauges)
        limit = gauge("attnd_limit", resource=resource)
        name = resource.replace("_", " ")
        return Target(Query(f"({used}) / ({limit.expr} > 0)", frozenset()), name)

    return Row(
        "Queue and refusals",
        [
            Panel(
                "Items in the daemon",
                "Queued: not yet launched. Launched: not yet done.",
                timeseries(
                    "short",
                    Target(gauge("attnd_queue_items"), "queued"),
                    Target(gauge("attnd_launched_items"), "launched"),
                ),
            ),
            Panel(
                "Tokens in the queue",
                "Query tokens of items that are not yet launched.",
                timeseries("short", Target(gauge("attnd_queue_tokens"), "queued")),
            ),
            Panel(
                "Staging memory",
                "Host memory of tensors between the network and the kernels.",
                timeseries(
                    "bytes",
                    Target(gauge("attnd_staging_bytes"), "in use"),
                ),
            ),
            Panel(
                "Share of the limits",
                "How near the daemon is to each of its limits, of all chosen instances.",
                bars(
                    "percentunit",
                    use("queued_items", "attnd_queue_items", "attnd_launched_items"),
                    use("queued_tokens", "attnd_queue_tokens"),
                    use("staging_bytes", "attnd_staging_bytes"),
                    use("sessions", "attnd_sessions"),
                    use("sequences", "attnd_sequences"),
                    most=1,
                    thresholds=SHARE,
                ),
            ),
            Panel(
                "Refused calls",
                "queue_full and deadline mean too much load; draining is a restart to come.",
                timeseries(
                    "reqps",
                    Target(rate("attnd_admission_refused_total", "reason"), "{{reason}}"),
                    stacked=True,
                ),
            ),
            Panel(
                "Refused by a tenant's limit",
                "Calls beyond a tenant's own limits; other tenants are not affected.",
                timeseries(
                    "reqps",
                    Target(
                        rate("attnd_tenant_refused_total", "tenant reason"),
                        "tenant '{{tenant}}': {{reason}}",
                    ),
                    stacked=True,
                ),
            ),
        ],
    )


def errors() -> Row:
    """What failed, by code."""
    return Row(
        "Errors",
        [
            Panel(
                "Requests by code",
                "Calls that ended in an error, a second. INTERNAL is a bug or a device; others "
                "are mostly the client's to mend.",
                timeseries(
                    "reqps",
                    Target(
                        rate("attnd_requests_total", "method code", code="!=OK"),
                        "{{method}} {{code}}",
                    ),
                    stacked=True,
                ),
            ),
            Panel(
                "Items by code",
                "Items that ended in an error, a second. RESOURCE_EXHAUSTED: no pages were left.",
                timeseries(
                    "ops",
                    Target(rate("attnd_items_total", "code", code="!=OK"), "{{code}}"),
                    stacked=True,
                ),
            ),
            Panel(
                "Control calls by code",
                "OpenSession, CreateSequence and all others that do not attend, with an error.",
                timeseries(
                    "reqps",
                    Target(
                        rate("attnd_control_requests_total", "method code", code="!=OK"),
                        "{{method}} {{code}}",
                    ),
                    stacked=True,
                ),
            ),
            Panel(
                "Control calls",
                "Calls a second by method, of every code.",
                timeseries(
                    "reqps", Target(rate("attnd_control_requests_total", "method"), "{{method}}")
                ),
            ),
            Panel(
                "Calls without a valid token",
                "UNAUTHENTICATED answers. After a change of tokens: a client left behind.",
                timeseries("reqps", Target(rate("attnd_unauthenticated_total"), "unauthenticated")),
            ),
            Panel(
                "Alerts",
                "Alerts of deploy/prometheus/rules that are pending or firing.",
                table(
                    gauge("ALERTS", "alertname severity alertstate instance", "max"),
                    {
                        "alertname": "Alert",
                        "severity": "Severity",
                        "alertstate": "State",
                        "instance": "Instance",
                    },
                    None,
                ),
            ),
        ],
    )
