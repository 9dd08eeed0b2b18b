// SPDX-License-Identifier: Apache-2.0
//
// Tables, bars and lists of what the daemon has now. Text is only ever set as text: names and
// labels are whatever clients chose.

import {bytes, count, exact, percent, plural, seconds, span} from './format.js';
import {PAGE_STATES, STAGES} from './figures.js';

const SVG = 'http://www.w3.org/2000/svg';

export function element(name, {text, className, children = [], ...attributes} = {}) {
  const result = document.createElement(name);
  if (text !== undefined) result.textContent = text;
  if (className) result.className = className;
  for (const [key, value] of Object.entries(attributes)) result.setAttribute(key, value);
  result.append(...children);
  return result;
}

// Parts of a whole, side by side: [share from 0 to 1, series number][].
function bar(parts, label) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('class', 'bar');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', label);
  let at = 0;
  for (const [share, index] of parts) {
    const width = Math.max(0, Math.min(share, 1 - at));
    const rect = document.createElementNS(SVG, 'rect');
    rect.setAttribute('class', `fill s${index}`);
    rect.setAttribute('x', `${100 * at}%`);
    rect.setAttribute('width', `${100 * width}%`);
    rect.setAttribute('height', '100%');
    svg.append(rect);
    at += width;
  }
  return svg;
}

// columns: {name, of(row): string or Node, number?}[]. On a narrow screen each row becomes a card
// whose cells say their column's name; the roles keep it a table for screen readers.
function table(caption, columns, rows) {
  const head = columns.map(({name, number}) =>
    element('th', {text: name, scope: 'col', role: 'columnheader', className: number ? 'number' : ''}));
  const body = rows.map((row) => element('tr', {role: 'row', children: columns.map((column, i) => {
    const value = column.of(row);
    const cell = element(i === 0 ? 'th' : 'td', {
      role: i === 0 ? 'rowheader' : 'cell',
      className: column.number ? 'number' : '',
      'data-name': column.name,
      children: [value],
    });
    if (i === 0) cell.setAttribute('scope', 'row');
    return cell;
  })}));
  return element('table', {role: 'table', children: [
    element('caption', {text: caption, className: 'visually-hidden'}),
    element('thead', {role: 'rowgroup', children: [element('tr', {role: 'row', children: head})]}),
    element('tbody', {role: 'rowgroup', children: body}),
  ]});
}

// Leaves the section alone where nothing has changed, so that selected text stays selected.
function fill(id, total, shown, build) {
  const section = document.getElementById(id);
  const key = JSON.stringify(shown);
  if (section.dataset.key === key) return;
  section.dataset.key = key;
  const counted = section.querySelector('.count');
  if (counted) counted.textContent = exact(total);
  section.querySelector('.rows').replaceChildren(...build());
}

const nothing = (text) => [element('p', {className: 'nothing', text})];

export function showCaches(status) {
  const caches = status.caches;
  const tenants = caches.some((cache) => cache.tenant !== '');
  const dims = ({head_dim_k: k, head_dim_v: v}) => (k === v ? `${k}` : `${k}/${v}`);
  const pages = (cache) => {
    const all = PAGE_STATES.reduce((sum, state) => sum + cache.pages[state], 0);
    const text = PAGE_STATES.map((state) => `${exact(cache.pages[state])} ${state}`).join(', ');
    return element('span', {className: 'with-bar', children: [
      bar(PAGE_STATES.map((state, i) => [all > 0 ? cache.pages[state] / all : 0, i]), text),
      element('span', {text}),
    ]});
  };
  const columns = [
    {name: 'Cache', of: (cache) => cache.name},
    ...(tenants ? [{name: 'Tenant', of: (cache) => cache.tenant}] : []),
    {name: 'Layers', number: true, of: (cache) => exact(cache.layers)},
    {name: 'Heads, KV', number: true, of: (cache) => `${cache.query_heads}, ${cache.kv_heads}`},
    {name: 'Head dim', number: true, of: dims},
    {name: 'Type', of: (cache) => cache.dtype},
    {name: 'Page', of: (cache) => `${plural(cache.page_size_tokens, 'token')}, ${bytes(cache.page_bytes)}`},
    {name: 'Sequences', number: true, of: (cache) => exact(cache.sequences)},
    {name: 'Pages', of: pages},
    {name: 'Quota', number: true, of: (cache) => (cache.quota_pages > 0 ? exact(cache.quota_pages) : 'none')},
  ];
  fill('caches', caches.length, caches, () => (caches.length > 0
    ? [table('Caches', columns, caches)]
    : nothing('No cache is open. A client opens one with OpenCache.')));
}

export function showSessions(status) {
  const {total, listed} = status.sessions;
  const tenants = listed.some((session) => session.tenant !== '');
  // Whole seconds, so that a row changes once a second at most.
  const rows = listed.map((session) => ({...session, left: Math.round(session.lease_remaining_s)}));
  const columns = [
    {name: 'Label', of: ({label}) => (label === '' ? element('i', {text: 'none'}) : label)},
    ...(tenants ? [{name: 'Tenant', of: (session) => session.tenant}] : []),
    {name: 'Sequences', number: true, of: (session) => exact(session.sequences)},
    {name: 'Lease', number: true, of: (session) => span(session.lease_s)},
    {name: 'Lease left', number: true, of: (session) => span(session.left)},
  ];
  fill('sessions', total, rows.map(({lease_remaining_s: _, ...row}) => row), () => (total > 0
    ? [table('Sessions', columns, rows),
       ...(total > listed.length
         ? nothing(`and ${exact(total - listed.length)} more with fewer sequences`) : [])]
    : nothing('No session is open.')));
}

export function showTenants(status) {
  const tenants = status.tenants.filter(({name}) => name !== '');
  document.getElementById('tenants').hidden = tenants.length === 0;
  const of = (value, limit, format = exact) => (limit > 0 ? `${format(value)} of ${format(limit)}` : format(value));
  fill('tenants', tenants.length, tenants, () => [table('Tenants', [
    {name: 'Tenant', of: (tenant) => tenant.name},
    {name: 'KV memory', number: true, of: (tenant) => of(tenant.kv_bytes, tenant.kv_bytes_limit, bytes)},
    {name: 'Caches', number: true, of: (tenant) => of(tenant.caches, tenant.caches_limit)},
    {name: 'Sessions', number: true, of: (tenant) => of(tenant.sessions, tenant.sessions_limit)},
    {name: 'Sequences', number: true, of: (tenant) => of(tenant.sequences, tenant.sequences_limit)},
    {name: 'Refused', number: true, of: (tenant) => exact(tenant.refused)},
  ], tenants)]);
}

export function showDevices(status) {
  const hot = status.devices.some((device) => Object.keys(device.celsius).length > 0);
  const power = status.devices.some((device) => device.watts !== null);
  const memory = (device) => (device.memory_used_bytes === null
    ? bytes(device.memory_bytes)
    : `${bytes(device.memory_used_bytes)} of ${bytes(device.memory_bytes)}`);
  fill('devices', status.devices.length, status.devices, () => [table('Devices', [
    {name: 'Device', of: (device) => device.name},
    {name: 'State', of: ({failure}) => (failure === '' ? 'ok' : element('strong', {className: 'bad', text: failure}))},
    {name: 'Memory in use', number: true, of: memory},
    {name: 'KV pool in slabs', number: true, of: (device) =>
      `${bytes(device.pool_bytes - device.pool_free_bytes)} of ${bytes(device.pool_bytes)}`},
    {name: 'Sequences', number: true, of: (device) => exact(device.sequences)},
    ...(hot ? [{name: 'Temperature', of: ({celsius}) => Object.entries(celsius)
      .map(([sensor, value]) => `${sensor} ${exact(value)} °C`).join(', ')}] : []),
    ...(power ? [{name: 'Power', number: true, of: ({watts}) => (watts === null ? '–' : `${exact(watts)} W`)}] : []),
  ], status.devices)]);
}

export function showCapabilities({capabilities: able}) {
  fill('capabilities', 0, able, () => {
    document.getElementById('capabilities-lead').textContent =
      `${able.backend}, ${able.isa}; pages of up to ${plural(able.max_page_size_tokens, 'token')}`;
    document.getElementById('features').replaceChildren(...Object.entries(able.features).map(
      ([name, has]) => element('li', {className: has ? 'yes' : 'no',
                                      text: `${name.replace('_', ' ')}: ${has ? 'yes' : 'no'}`})));
    const dims = able.head_dims.map(({k, v}) => (k === v ? `${k}` : `${k}/${v}`));
    const others = able.any_head_dims ? [`others to ${able.max_head_dim}`] : [];
    return [table('Types of queries and cache, by head dim', [
      {name: 'Query / cache', of: ({q, kv}) => `${q} / ${kv}`},
      ...dims.map((name) => ({name, of: () => 'tuned'})),
      ...others.map((name) => ({name, of: () => 'yes'})),
    ], able.dtypes)];
  });
}

export function showOptions({options}) {
  fill('options', options.length, options, () => [element('dl', {
    className: 'options',
    children: options.map(({name, value}) => element('div', {children: [
      element('dt', {text: name}), element('dd', {text: value}),
    ]})),
  })]);
}

// rows: [name, value][]
export function showTotals(rows) {
  document.getElementById('totals').replaceChildren(...rows.map(([name, value, key]) =>
    element('div', {children: [
      element('dt', {text: name}),
      element('dd', {text: exact(value), 'data-figure': key}),
    ]})));
}

function labelledBar(name, text, parts) {
  return element('div', {className: 'labelled-bar', children: [
    element('span', {text: name}), element('b', {text}), bar(parts, `${name}: ${text}`),
  ]});
}

export class Bars {
  constructor(id) {
    this.box = element('div', {className: 'bars'});
    document.getElementById(id).append(this.box);
  }

  showStages(stages) {
    const most = Math.max(...STAGES.map((stage) => stages[stage].p99 ?? 0), 1e-5);
    // Logarithmic, from a microsecond to the longest.
    const place = (value) => Math.max(0, Math.log(value / 1e-6) / Math.log(most / 1e-6));
    this.box.replaceChildren(...STAGES.map((stage) => {
      const {p50, p99} = stages[stage];
      const text = p50 === null ? '–' : `${seconds(p50)} to ${seconds(p99)}`;
      const parts = p50 === null ? [] : [[place(p50), 'none'], [Math.max(0.01, place(p99) - place(p50)), 0]];
      return labelledBar(stage.replace('_', ' '), text, parts);
    }));
  }

  showMemory({devices, pool, staging, resident}) {
    const one = devices.length === 1;
    const of = (used, all) => `${bytes(used)} of ${bytes(all)} (${percent(all > 0 ? used / all : 0)})`;
    const rows = [];
    devices.forEach((device, i) => {
      const used = device.pool_bytes - device.pool_free_bytes;
      rows.push(labelledBar(one ? 'KV pool, in slabs' : `KV pool of device ${i}, in slabs`,
                            of(used, device.pool_bytes), [[used / device.pool_bytes, 0]]));
      if (device.memory_used_bytes !== null) {
        rows.push(labelledBar(one ? 'Device memory' : `Memory of device ${i}`,
                              of(device.memory_used_bytes, device.memory_bytes),
                              [[device.memory_used_bytes / device.memory_bytes, 1]]));
      }
    });
    rows.push(labelledBar('Staging', of(staging.used, staging.limit),
                          [[staging.limit > 0 ? staging.used / staging.limit : 0, 2]]));
    rows.push(element('p', {className: 'note', text:
      `The process holds ${bytes(resident)}; ${count(100 * pool.fragmentation)} % of the pool's free bytes lie outside its largest runs.`}));
    this.box.replaceChildren(...rows);
  }
}
