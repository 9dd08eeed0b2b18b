// SPDX-License-Identifier: Apache-2.0
//
// The status page: looks at /api/status every two seconds while it can be seen, and shows it.

import {Chart} from './chart.js';
import {History, PAGE_STATES, sum, total} from './figures.js';
import {bytes, count, exact, percent, seconds, span} from './format.js';
import {Bars, showCaches, showCapabilities, showDevices, showOptions, showSessions, showTenants,
        showTotals} from './tables.js';

const INTERVAL_MS = 2000;
const TIMEOUT_MS = 10000;
const STATES = {serving: 'Serving', draining: 'Draining', failed: 'Device failed'};

const byId = (id) => document.getElementById(id);

// Only where it differs: a screen reader says what changes in a live region.
function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function setState(state, text) {
  byId('state').dataset.state = state;
  setText('state', text);
}

function setBanner(text) {
  byId('banner').hidden = text === '';
  setText('banner', text);
}

const named = (...keys) => keys.map((key) => ({key, name: key}));
const charts = {
  requests: new Chart(byId('chart-requests'),
                      {series: named('Attend', 'FlashAttention'), format: count, empty: 'No requests yet'}),
  latency: new Chart(byId('chart-latency'), {
    series: [{key: 'p50', name: 'median'}, {key: 'p99', name: '99th percentile'}],
    format: seconds, log: true, empty: 'No requests yet'}),
  tokens: new Chart(byId('chart-tokens'),
                    {series: named('attended', 'written'), format: count, empty: 'No tokens yet'}),
  batch: new Chart(byId('chart-batch'),
                   {series: named('items', 'tokens', 'requests'), format: count, log: true, empty: 'No launches yet'}),
  queue: new Chart(byId('chart-queue'),
                   {series: named('items', 'tokens', 'launched'), format: count, empty: 'Empty'}),
  pages: new Chart(byId('chart-pages'),
                   {series: named(...PAGE_STATES), format: count, stacked: true, empty: 'No pages yet'}),
  errors: new Chart(byId('chart-errors'), {format: count, empty: 'No errors'}),
};
const stages = new Bars('stages');
const memory = new Bars('memory');
const history = new History();

function showTiles(status, point) {
  const limit = (resource) => sum(status, 'attnd_limit', {resource});
  const requests = sum(status, 'attnd_requests_total');
  const failed = requests - sum(status, 'attnd_requests_total', {code: 'OK'});
  const pool = point.pool.slabs + point.pool.free;
  setText('tile-requests', count(total(point.requests)));
  setText('note-requests', `${exact(requests)} since the start`);
  setText('tile-tokens', count(point.tokens.attended));
  setText('note-tokens', `${count(point.tokens.written)} written /s`);
  setText('tile-latency', seconds(point.latency.p50));
  setText('note-latency', `99 % within ${seconds(point.latency.p99)}`);
  setText('tile-queue', count(point.queue.items));
  setText('note-queue', `of ${count(limit('queued_items'))}; ${count(point.queue.launched)} launched`);
  setText('tile-pool', percent(pool > 0 ? point.pool.slabs / pool : 0));
  setText('note-pool', `${bytes(point.pool.slabs)} of ${bytes(pool)}`);
  setText('tile-errors', count(total(point.requests) === null ? null : total(point.errors) ?? 0));
  setText('note-errors', `${exact(failed)} since the start`);
  byId('errors-box').classList.toggle('bad', (total(point.errors) ?? 0) > 0);
}

function showSums(status) {
  const rows = [
    ['Requests', 'attnd_requests_total'],
    ['Items', 'attnd_items_total'],
    ['Launches', 'attnd_launches_total'],
    ['Tokens attended', 'attnd_tokens_attended_total'],
    ['Tokens written', 'attnd_tokens_written_total'],
    ['Control calls', 'attnd_control_requests_total'],
    ['Refused at admission', 'attnd_admission_refused_total'],
    ['Unauthenticated', 'attnd_unauthenticated_total'],
    ['Sessions resumed', 'attnd_sessions_resumed_total'],
    ['Leases expired', 'attnd_leases_expired_total'],
    ['Pages copied on write', 'attnd_pages_copied_total'],
    ['Prefix tokens asked for', 'attnd_prefix_tokens_queried_total'],
    ['Prefix tokens shared', 'attnd_prefix_tokens_matched_total'],
    ['Prefix pages evicted', 'attnd_prefix_pages_evicted_total'],
  ];
  showTotals(rows.map(([text, name]) => [text, sum(status, name), name]));
}

function showMemory(status) {
  memory.showMemory({
    devices: status.devices,
    pool: {fragmentation: sum(status, 'attnd_pool_fragmentation_ratio')},
    staging: {
      used: sum(status, 'attnd_staging_bytes'),
      limit: sum(status, 'attnd_limit', {resource: 'staging_bytes'}),
    },
    resident: sum(status, 'process_resident_memory_bytes'),
  });
}

function show(status) {
  const point = history.add(status);
  setState(status.state, STATES[status.state] ?? status.state);
  setBanner(status.state === 'failed' ? status.why
    : status.state === 'draining' ? 'Draining: new work is refused, what was admitted goes on.' : '');
  setText('summary', [`version ${status.version}`, status.capabilities.backend,
                      status.capabilities.isa, `up ${span(status.uptime_s)}`].join(' · '));
  showTiles(status, point);
  for (const [name, chart] of Object.entries(charts)) {
    chart.draw(history.points.map((one) => ({t: one.t, values: one[name]})));
  }
  stages.showStages(point.stages);
  showMemory(status);
  showSums(status);
  showCaches(status);
  showSessions(status);
  showTenants(status);
  showDevices(status);
  showCapabilities(status);
  showOptions(status);
  setText('updated', `Last look at ${new Date(status.time_ms).toLocaleTimeString()}.`);
  document.title = `${STATES[status.state] ?? status.state} · attnd`;
}

async function look() {
  const answer = await fetch('/api/status', {signal: AbortSignal.timeout(TIMEOUT_MS)});
  if (!answer.ok) throw new Error(`the daemon answers ${answer.status}`);
  return answer.json();
}

async function run() {
  let heard = null;
  for (;;) {
    try {
      show(await look());
      heard = new Date();
    } catch (error) {
      setState('lost', 'No answer');
      setBanner(`No answer from the daemon${heard ? ` since ${heard.toLocaleTimeString()}` : ''}: ${error.message}`);
    }
    await new Promise((resolve) => setTimeout(resolve, INTERVAL_MS));
    // What nobody sees need not be asked for.
    while (document.hidden) {
      await new Promise((resolve) =>
        document.addEventListener('visibilitychange', resolve, {once: true}));
    }
  }
}

run();
