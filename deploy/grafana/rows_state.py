# SPDX-License-Identifier: Apache-2.0
"""The dashboard's rows about what the daemon holds and runs on."""

from __future__ import annotations

from panels import GREEN, RED, YELLOW, Panel, Row, Target, bars, stat, table, timeseries
from promql import Query, gauge, increase, rate

SHARE = [(0.8, YELLOW), (0.9, RED)]


def memory() -> Row:
    """The KV pool, from devices to pages."""
    colors = {"used": "blue", "cached": "purple", "reserved": "orange", "free": "green"}
    return Row(
        "Memory",
        [
            Panel(
                "KV pool by use",
                "Slabs belong to a cache; free bytes can go to any. Reserved once, at start.",
                timeseries(
                    "bytes",
                    Target(gauge("attnd_pool_bytes", "device use"), "device {{device}}: {{use}}"),
                    stacked=True,
                ),
            ),
            Panel(
                "Pages by state",
                "used: held by sequences; cached: published prefixes that no sequence holds, which "
                "are evicted when pages run out; reserved: promised to items in the queue.",
                timeseries(
                    "short",
                    Target(gauge("attnd_pages", "state"), "{{state}}"),
                    stacked=True,
                    colors=colors,
                ),
            ),
            Panel(
                "Fragmentation",
                "Share of the pools' free bytes outside the largest free run of each.",
                timeseries(
                    "percentunit",
                    Target(
                        gauge("attnd_pool_fragmentation_ratio", "instance", "max"), "{{instance}}"
                    ),
                    most=1,
                ),
            ),
            Panel(
                "Pages in use by cache and tenant",
                "Pages that sequences hold or that are promised.",
                timeseries(
                    "short",
                    Target(
                        gauge("attnd_pages", "tenant cache", state="=~used|reserved"),
                        "{{cache}} of tenant '{{tenant}}'",
                    ),
                    stacked=True,
                ),
            ),
            Panel(
                "Pages now",
                "Each cache's pages by state.",
                table(
                    gauge("attnd_pages", "tenant cache state"),
                    {"tenant": "Tenant", "cache": "Cache", "state": "State"},
                    "Pages",
                ),
            ),
            Panel(
                "Copies and moves",
                "Pages copied because a fork wrote, and slabs that went from one cache to another.",
                timeseries(
                    "ops",
                    Target(rate("attnd_pages_copied_total"), "pages copied"),
                    Target(rate("attnd_slabs_moved_total"), "slabs moved"),
                ),
            ),
            Panel(
                "Memory by tenant",
                "What each tenant's pages take, and its limit (dashed).",
                timeseries(
                    "bytes",
                    Target(gauge("attnd_tenant_pool_bytes", "tenant"), "tenant '{{tenant}}'"),
                    Target(
                        gauge("attnd_tenant_pool_bytes_limit", "tenant"),
                        "tenant '{{tenant}}', limit",
                    ),
                    dashed=".*, limit",
                ),
                16,
            ),
            Panel(
                "Share of a tenant's memory",
                "Beyond its limit a tenant's items get RESOURCE_EXHAUSTED.",
                bars(
                    "percentunit",
                    Target(
                        gauge("attnd_tenant_pool_bytes", "tenant").over(
                            gauge("attnd_tenant_pool_bytes_limit", "tenant")
                        ),
                        "tenant '{{tenant}}'",
                    ),
                    most=1,
                    thresholds=SHARE,
                ),
            ),
        ],
    )


def prefixes() -> Row:
    """What prompts share."""
    matched, queried = "attnd_prefix_tokens_matched_total", "attnd_prefix_tokens_queried_total"
    return Row(
        "Shared prefixes",
        [
            Panel(
                "Hit ratio",
                "Share of the prompts' tokens that were not computed again, of sequences that were "
                "created with a prefix.",
                timeseries(
                    "percentunit", Target(rate(matched).over(rate(queried)), "hit ratio"), most=1
                ),
            ),
            Panel(
                "Prompt tokens",
                "Asked for and found, a second.",
                timeseries(
                    "short", Target(rate(queried), "queried"), Target(rate(matched), "matched")
                ),
            ),
            Panel(
                "Cached and evicted pages",
                "Cached pages wait for a prompt; they are evicted, the least recently used first, "
                "when pages run out.",
                timeseries(
                    "short",
                    Target(gauge("attnd_pages", state="cached"), "cached"),
                    Target(increase("attnd_prefix_pages_evicted_total"), "evicted"),
                ),
            ),
        ],
    )


def sessions() -> Row:
    """Who is there."""
    return Row(
        "Sessions",
        [
            Panel(
                "Sessions by tenant",
                "Open sessions; a number that only grows is a client that forgets to close.",
                timeseries(
                    "short",
                    Target(gauge("attnd_sessions", "tenant"), "tenant '{{tenant}}'"),
                    stacked=True,
                ),
            ),
            Panel(
                "Sequences by tenant",
                "Sequences that sessions hold.",
                timeseries(
                    "short",
                    Target(gauge("attnd_sequences", "tenant"), "tenant '{{tenant}}'"),
                    stacked=True,
                ),
            ),
            Panel(
                "Ends and resumes",
                "Resumed: a new client took a session over. Expired: the lease ended before anyone "
                "closed or resumed it.",
                timeseries(
                    "short",
                    Target(increase("attnd_sessions_resumed_total"), "resumed"),
                    Target(increase("attnd_leases_expired_total"), "expired"),
                ),
            ),
        ],
        collapsed=True,
    )


def devices() -> Row:
    """The hardware."""
    return Row(
        "Devices",
        [
            Panel(
                "Devices",
                "What attention runs on.",
                table(
                    gauge("attnd_device_info", "instance device name backend", "max"),
                    {
                        "instance": "Instance",
                        "device": "Device",
                        "name": "Name",
                        "backend": "Backend",
                    },
                    None,
                ),
                12,
                6,
            ),
            Panel(
                "State of devices",
                "failed: fenced until a restart.",
                timeseries(
                    "short",
                    Target(gauge("attnd_devices", "state"), "{{state}}"),
                    stacked=True,
                    colors={"ok": GREEN, "failed": RED},
                ),
                12,
                6,
            ),
            Panel(
                "Device memory",
                "Used by all processes; the KV pool was reserved at start.",
                timeseries(
                    "bytes",
                    Target(
                        gauge("attnd_device_memory_bytes", "instance device", kind="used"),
                        "{{instance}} {{device}}",
                    ),
                    Target(
                        gauge("attnd_device_memory_bytes", "instance device", kind="total"),
                        "{{instance}} {{device}}, total",
                    ),
                    dashed=".*, total",
                ),
            ),
            Panel(
                "Temperature",
                "By sensor. Near 110 degrees at the junction a GPU lowers its clocks.",
                timeseries(
                    "celsius",
                    Target(
                        gauge("attnd_device_temperature_celsius", "instance device sensor", "max"),
                        "{{instance}} {{device}}, {{sensor}}",
                    ),
                    least=20,
                    thresholds=[(90, YELLOW), (100, RED)],
                ),
            ),
            Panel(
                "Power",
                "What each GPU draws.",
                timeseries(
                    "watt",
                    Target(
                        gauge("attnd_device_power_watts", "instance device"),
                        "{{instance}} {{device}}",
                    ),
                ),
            ),
        ],
        collapsed=True,
    )


def process() -> Row:
    """The daemon's process, its certificates and files."""
    expiry = gauge("attnd_tls_certificate_expiry_timestamp_seconds", "instance", "min")
    return Row(
        "Process and security",
        [
            Panel(
                "Versions",
                "The running versions.",
                table(
                    gauge("attnd_build_info", "instance version", "max"),
                    {"instance": "Instance", "version": "Version"},
                    None,
                ),
                8,
                6,
            ),
            Panel(
                "Certificate expires in",
                "Until then the files of --tls_cert and --tls_key must be replaced; no restart.",
                stat(
                    "dtdurations",
                    Target(Query(f"{expiry.expr} - time()", expiry.labels), "{{instance}}"),
                    thresholds=[(-1e12, RED), (86400, YELLOW), (14 * 86400, GREEN)],
                    graph=False,
                    none="no TLS",
                ),
                8,
                6,
            ),
            Panel(
                "Draining",
                "A daemon that drains refuses new work and ends when the admitted work is done.",
                stat(
                    "none",
                    Target(gauge("attnd_draining", "instance", "max"), "{{instance}}"),
                    thresholds=[(1, YELLOW)],
                    graph=False,
                ),
                8,
                6,
            ),
            Panel(
                "Resident memory",
                "Of the process. On the CPU the KV pool is in it.",
                timeseries(
                    "bytes",
                    Target(gauge("process_resident_memory_bytes", "instance"), "{{instance}}"),
                ),
            ),
            Panel(
                "CPU",
                "Seconds of CPU time a second: cores at work.",
                timeseries(
                    "short",
                    Target(rate("process_cpu_seconds_total", "instance"), "{{instance}}"),
                ),
            ),
            Panel(
                "Reloads",
                "Of certificates and the tenants' file. A failed one leaves the former in force.",
                timeseries(
                    "short",
                    Target(increase("attnd_reloads_total", "what result"), "{{what}}: {{result}}"),
                    colors={"tls: failed": RED, "tenants: failed": RED},
                ),
            ),
        ],
        collapsed=True,
    )
