// SPDX-License-Identifier: Apache-2.0
//
// A chart of some series over the last minutes, in SVG: lines, or areas on top of each other. The
// legend under it says the newest values, or those under the pointer; so a reader who does not see
// the picture misses nothing but its shape.
//
//   const chart = new Chart(figure, {series: [{key: 'p50', name: 'median'}], format, log: true});
//   chart.draw(points.map((point) => ({t: point.t, values: point.latency})));

const SVG = 'http://www.w3.org/2000/svg';
const HEIGHT = 150;
const SPANS_S = [60, 120, 300];  // the shortest that holds all points
const MARGIN = {top: 8, right: 8, bottom: 20, left: 50};

function shape(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function isFigure(value) {
  return typeof value === 'number' && Number.isFinite(value);
}

// Up to five round numbers from 0 to beyond `most`.
function linearTicks(most) {
  const step = 10 ** Math.floor(Math.log10(most / 4));
  const nice = [1, 2, 5, 10].map((factor) => factor * step).find((size) => most / size <= 4);
  const ticks = [];
  for (let i = 0; (i - 1) * nice < most; ++i) ticks.push(i * nice);
  return ticks;
}

// Powers of ten around the values, at most six of them.
function logTicks(least, most) {
  const first = Math.floor(Math.log10(least));
  const last = Math.max(first + 1, Math.ceil(Math.log10(most)));
  const step = Math.ceil((last - first) / 5);
  const ticks = [];
  for (let i = first; i < last + step; i += step) ticks.push(10 ** i);
  return ticks;
}

export class Chart {
  // series: {key, name}[] or none, where the keys are those that the points have. format: of a
  // value. stacked: areas whose sum is the total. log: a logarithmic axis, for values above 0.
  constructor(figure, {series, format, stacked = false, log = false, empty = 'Nothing yet'}) {
    this.fixed = series;
    this.format = format;
    this.stacked = stacked;
    this.log = log;
    this.empty = empty;
    this.title = figure.querySelector('h3').textContent;
    this.points = [];
    this.pointer = null;

    this.svg = shape(figure, 'svg', {class: 'plot', role: 'img'});
    this.legend = document.createElement('ul');
    this.legend.className = 'legend';
    figure.append(this.legend);
    this.svg.addEventListener('pointermove', (event) => this.#point(event));
    this.svg.addEventListener('pointerleave', () => this.#point(null));
    new ResizeObserver(() => this.#render()).observe(this.svg);
  }

  // points: {t in seconds, values: {key: number or null}}[], oldest first.
  draw(points) {
    this.points = points;
    this.#render();
  }

  #point(event) {
    this.pointer = event === null ? null : event.clientX - this.svg.getBoundingClientRect().left;
    this.#render();
  }

  #series() {
    if (this.fixed) return this.fixed;
    const keys = new Set(this.points.flatMap((point) => Object.keys(point.values)));
    return [...keys].sort().map((key) => ({key, name: key}));
  }

  // What is drawn of a point, by series: [from, to], or null.
  #extents(point, series) {
    let base = 0;
    return series.map(({key}) => {
      const value = point.values[key];
      if (!isFigure(value) || (this.log && value <= 0)) return null;
      if (!this.stacked) return [null, value];
      base += value;
      return [base - value, base];
    });
  }

  #render() {
    const width = this.svg.clientWidth;
    if (width === 0) return;
    const series = this.#series();
    const rows = this.points.map((point) => this.#extents(point, series));
    const tops = rows.flat().filter((extent) => extent !== null).map(([, top]) => top);
    this.svg.replaceChildren();
    this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    const axis = this.#axis(tops, width);
    this.#labelTimes(axis);
    const shown = this.#shown(axis);
    this.#legend(series, shown);
    if (tops.length === 0 || (!this.log && Math.max(...tops) === 0)) {
      shape(this.svg, 'text', {class: 'empty', x: (axis.left + axis.right) / 2, y: axis.middle,
                               'text-anchor': 'middle'}, this.empty);
      if (tops.length === 0) return;
    }
    // The last of a stack is drawn first, so that each line lies on its own area.
    series.map((_, i) => i).reverse().forEach((i) => this.#draw(i, rows, axis));
    if (this.pointer !== null && shown) {
      const x = axis.x(shown.t);
      shape(this.svg, 'line', {class: 'cursor', x1: x, x2: x, y1: axis.top, y2: axis.bottom});
    }
  }

  // Draws the grid and its labels, and says where values lie.
  #axis(tops, width) {
    const left = MARGIN.left, right = width - MARGIN.right;
    const top = MARGIN.top, bottom = HEIGHT - MARGIN.bottom;
    const most = tops.length > 0 ? Math.max(...tops) : 0;
    let ticks, scale;
    if (this.log) {
      ticks = most > 0 ? logTicks(Math.min(...tops), most) : [1e-6, 1e-3, 1];
      const first = Math.log10(ticks[0]), last = Math.log10(ticks.at(-1));
      scale = (value) => (Math.log10(value) - first) / (last - first);
    } else {
      ticks = linearTicks(most > 0 ? most : 1);
      scale = (value) => value / ticks.at(-1);
    }
    const now = this.points.at(-1)?.t ?? 0;
    const held = now - (this.points[0]?.t ?? 0);
    const span = SPANS_S.find((one) => one >= held) ?? SPANS_S.at(-1);
    const y = (value) => bottom - scale(value) * (bottom - top);
    for (const tick of ticks) {
      shape(this.svg, 'line', {class: 'grid', x1: left, x2: right, y1: y(tick), y2: y(tick)});
      shape(this.svg, 'text', {class: 'tick', x: left - 6, y: y(tick) + 4, 'text-anchor': 'end'},
            most > 0 || tick === 0 ? this.format(tick) : '');
    }
    return {
      left, right, top, bottom, y, now, span, middle: (top + bottom) / 2,
      x: (t) => right - ((now - t) / span) * (right - left),
    };
  }

  #labelTimes(axis) {
    // Now, and two times before it.
    const step = {60: 25, 120: 50, 300: 120}[axis.span];
    for (const before of [0, step, 2 * step]) {
      const text = before === 0 ? 'now' : before % 60 === 0 ? `−${before / 60} min` : `−${before} s`;
      shape(this.svg, 'text', {class: 'tick', x: axis.x(axis.now - before), y: HEIGHT - 5,
                               'text-anchor': before === 0 ? 'end' : 'middle'}, text);
    }
  }

  #draw(index, rows, axis) {
    // Where a figure is missing the line is broken.
    const runs = [[]];
    rows.forEach((row, i) => {
      if (row[index] === null) {
        runs.push([]);
      } else {
        runs.at(-1).push([axis.x(this.points[i].t), ...row[index]]);
      }
    });
    for (const run of runs.filter((one) => one.length > 0)) {
      const line = run.map(([x, , to]) => `${x.toFixed(1)} ${axis.y(to).toFixed(1)}`);
      if (this.stacked) {
        const back = run.map(([x, from]) => `${x.toFixed(1)} ${axis.y(from).toFixed(1)}`).reverse();
        shape(this.svg, 'path', {class: `area s${index % 6}`,
                                 d: `M${line.concat(back).join('L')}Z`});
      }
      if (run.length === 1) {
        shape(this.svg, 'circle', {class: `dot s${index % 6}`, cx: run[0][0], cy: axis.y(run[0][2]),
                                   r: 2.5});
      }
      shape(this.svg, 'path', {class: `line s${index % 6}`, d: `M${line.join('L')}`});
    }
  }

  // The point under the pointer, else the newest.
  #shown(axis) {
    if (this.pointer === null) return this.points.at(-1);
    const distance = (point) => Math.abs(axis.x(point.t) - this.pointer);
    return this.points.reduce((best, point) => (distance(point) < distance(best) ? point : best),
                              this.points[0]);
  }

  #legend(series, shown) {
    const texts = series.map(({key, name}) => [name, this.format(shown?.values[key])]);
    this.legend.replaceChildren(...texts.map(([name, value], i) => {
      const item = document.createElement('li');
      const swatch = document.createElement('i');
      swatch.className = `swatch s${i % 6}`;
      const figure = document.createElement('b');
      figure.textContent = value;
      item.append(swatch, `${name} `, figure);
      return item;
    }));
    const now = texts.map(([name, value]) => `${name} ${value}`).join(', ');
    this.svg.setAttribute('aria-label', `${this.title}: ${now || this.empty}`);
  }
}
