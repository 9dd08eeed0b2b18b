// SPDX-License-Identifier: Apache-2.0
//
// Numbers as people read them. Pure; a figure that is not there is an en dash.

const NONE = '–';

function digits(value, places) {
  return value.toLocaleString('en-US', {maximumFractionDigits: places});
}

// Three significant digits, without trailing zeros.
function short(value) {
  const size = Math.abs(value);
  return digits(value, size >= 100 ? 0 : size >= 10 ? 1 : 2);
}

function isFigure(value) {
  return typeof value === 'number' && Number.isFinite(value);
}

// 1234 -> "1.23k"
export function count(value) {
  if (!isFigure(value)) return NONE;
  for (const [unit, letter] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e4, 'k']]) {
    if (Math.abs(value) >= unit) return short(value / (letter === 'k' ? 1e3 : unit)) + letter;
  }
  return value >= 1000 ? digits(value, 0) : short(value);
}

// 1234567 -> "1,234,567"
export function exact(value) {
  return isFigure(value) ? digits(value, 0) : NONE;
}

// 1536 -> "1.5 KiB"
export function bytes(value) {
  if (!isFigure(value)) return NONE;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < units.length - 1) {
    value /= 1024;
    ++unit;
  }
  return `${short(value)} ${units[unit]}`;
}

// 0.00125 -> "1.25 ms"
export function seconds(value) {
  if (!isFigure(value)) return NONE;
  if (value >= 1 || value === 0) return `${short(value)} s`;
  if (value >= 1e-3) return `${short(value * 1e3)} ms`;
  return `${short(value * 1e6)} µs`;
}

// 93784 -> "1 d 2 h"
export function span(value) {
  if (!isFigure(value)) return NONE;
  const units = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];
  const rounded = Math.max(0, Math.round(value));
  const first = units.findIndex(([, size]) => rounded >= size);
  if (first < 0) return '0 s';
  const [name, size] = units[first];
  const whole = `${Math.floor(rounded / size)} ${name}`;
  const next = units[first + 1];
  const rest = next ? Math.floor((rounded % size) / next[1]) : 0;
  return rest > 0 ? `${whole} ${rest} ${next[0]}` : whole;
}

// 0.256 -> "25.6 %"
export function percent(value) {
  return isFigure(value) ? `${short(100 * value)} %` : NONE;
}

// 1, "cache" -> "1 cache"
export function plural(value, noun) {
  return `${exact(value)} ${noun}${value === 1 ? '' : 's'}`;
}
