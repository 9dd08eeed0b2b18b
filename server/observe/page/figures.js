// SPDX-License-Identifier: Apache-2.0
//
// Figures out of /api/status: sums of series, and what happened between two looks. The metrics are
// those of /metrics; see docs/status_page.md. Pure but for History, which keeps what it was given.
//
//   const history = new History();
//   const point = history.add(status);  // rates since the look before; null for what has none
//   point.requests.Attend;              // a second

const WINDOW_S = 15;     // of quantiles
const KEEP_S = 5 * 60;   // of charts

export const STAGES = ['stage_in', 'queue', 'kernel', 'stage_out'];
export const PAGE_STATES = ['used', 'cached', 'reserved', 'free'];

function series(status, name, wanted = {}) {
  const all = status.metrics[name] ?? [];
  return all.filter((one) => Object.entries(wanted).every(([key, value]) => one.labels[key] === value));
}

// Of a counter's or gauge's series that have these labels.
export function sum(status, name, wanted) {
  return series(status, name, wanted).reduce((total, one) => total + one.value, 0);
}

// {label value: sum} over one label.
export function sumBy(status, name, label, wanted) {
  const sums = {};
  for (const one of series(status, name, wanted)) {
    const key = one.labels[label];
    sums[key] = (sums[key] ?? 0) + one.value;
  }
  return sums;
}

// The histograms of all series that have these labels, as one.
export function histogram(status, name, wanted) {
  const merged = {count: 0, sum: 0, buckets: new Map()};
  for (const one of series(status, name, wanted)) {
    merged.count += one.count;
    merged.sum += one.sum;
    for (const [bound, count] of one.buckets) {
      const key = bound ?? Infinity;
      merged.buckets.set(key, (merged.buckets.get(key) ?? 0) + count);
    }
  }
  return merged;
}

// What `now` has counted since `before`.
export function between(now, before) {
  const buckets = new Map();
  for (const [bound, count] of now.buckets) {
    buckets.set(bound, count - (before.buckets.get(bound) ?? 0));
  }
  return {count: now.count - before.count, sum: now.sum - before.sum, buckets};
}

// As Prometheus' histogram_quantile: linear within the bucket. Null where nothing was counted.
export function quantile(histogramOf, q) {
  if (histogramOf.count <= 0) return null;
  const rank = q * histogramOf.count;
  let lower = 0;
  let below = 0;
  const bounds = [...histogramOf.buckets.entries()].sort(([a], [b]) => a - b);
  for (const [bound, count] of bounds) {
    if (count >= rank && count > below) {
      if (bound === Infinity) return lower;
      return lower + ((bound - lower) * (rank - below)) / (count - below);
    }
    below = count;
    lower = bound;
  }
  return lower;
}

function mean(histogramOf) {
  return histogramOf.count > 0 ? histogramOf.sum / histogramOf.count : null;
}

function quantiles(now, before, name, wanted) {
  const recent = between(histogram(now, name, wanted), histogram(before, name, wanted));
  return {p50: quantile(recent, 0.5), p99: quantile(recent, 0.99)};
}

// Differences of two sums, a second.
function rates(now, before, elapsed) {
  const result = {};
  for (const [key, value] of Object.entries(now)) {
    result[key] = (value - (before[key] ?? 0)) / elapsed;
  }
  return result;
}

export class History {
  constructor() {
    this.looks = [];   // of the last WINDOW_S, oldest first
    this.points = [];  // of the last KEEP_S
  }

  // `status` is newer than the one before, or of a daemon that was started since.
  add(status) {
    const last = this.looks.at(-1);
    if (last && status.uptime_s < last.uptime_s) {
      this.looks = [];
      this.points = [];
    }
    const point = {t: status.uptime_s, ...this.#state(status), ...this.#rates(status)};
    this.looks.push(status);
    this.looks = this.looks.filter((look) => look.uptime_s >= status.uptime_s - WINDOW_S);
    this.points.push(point);
    this.points = this.points.filter((one) => one.t >= status.uptime_s - KEEP_S);
    return point;
  }

  #state(status) {
    return {
      queue: {
        items: sum(status, 'attnd_queue_items'),
        tokens: sum(status, 'attnd_queue_tokens'),
        launched: sum(status, 'attnd_launched_items'),
      },
      pages: {used: 0, cached: 0, reserved: 0, free: 0, ...sumBy(status, 'attnd_pages', 'state')},
      pool: {slabs: 0, free: 0, ...sumBy(status, 'attnd_pool_bytes', 'use')},
    };
  }

  #rates(status) {
    const before = this.looks.at(-1);
    const elapsed = before ? status.uptime_s - before.uptime_s : 0;
    if (elapsed <= 0) {
      const none = {p50: null, p99: null};
      return {
        requests: {}, errors: {}, tokens: {}, latency: none, batch: {},
        stages: Object.fromEntries(STAGES.map((stage) => [stage, none])),
      };
    }
    const oldest = this.looks[0];
    const rate = (name) => (sum(status, name) - sum(before, name)) / elapsed;
    const by = (name, label) =>
      rates(sumBy(status, name, label), sumBy(before, name, label), elapsed);
    const codes = by('attnd_requests_total', 'code');
    delete codes.OK;
    const batch = (name) => mean(between(histogram(status, name), histogram(before, name)));
    return {
      requests: {Attend: 0, FlashAttention: 0, ...by('attnd_requests_total', 'method')},
      errors: codes,
      tokens: {
        attended: rate('attnd_tokens_attended_total'),
        written: rate('attnd_tokens_written_total'),
      },
      latency: quantiles(status, oldest, 'attnd_request_duration_seconds'),
      stages: Object.fromEntries(STAGES.map((stage) =>
        [stage, quantiles(status, oldest, 'attnd_stage_duration_seconds', {stage})])),
      batch: {
        items: batch('attnd_batch_items'),
        tokens: batch('attnd_batch_tokens'),
        requests: batch('attnd_batch_requests'),
      },
    };
  }
}

export function total(rateBy) {
  const values = Object.values(rateBy);
  return values.length > 0 ? values.reduce((a, b) => a + b, 0) : null;
}
