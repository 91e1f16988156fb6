/**
 * Plots as SVG text. Colours are classes, so that a page or the plot's own style may set them; every line is named where
 * it ends, so that no legend has to be looked up.
 */
export const escaped = (text) =>
  String(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');

/** The paper and the pens, on a light and on a dark page. */
const LIGHT = {
  ...{ paper: '#fffdfa', ink: '#23211e', faint: '#6d675f', rule: '#e5dfd6', good: '#2f7d55', bad: '#c23b22' },
  ...{ c0: '#d9480f', c1: '#1f6f8b', c2: '#6b4f9e', c3: '#2b8a3e', c4: '#8a6d1c', c5: '#a61e4d', c6: '#50627a' },
  ...{ c7: '#0b7285', c8: '#845ef7', c9: '#7a5230' },
};
const DARK = {
  ...{ paper: '#1b1a18', ink: '#ece6dc', faint: '#a39b8f', rule: '#37342f', good: '#63c08f', bad: '#ff7a5c' },
  ...{ c0: '#ff8a50', c1: '#62b6d6', c2: '#b197fc', c3: '#69db7c', c4: '#e0bf5a', c5: '#f783ac', c6: '#a5b4c9' },
  ...{ c7: '#66d9e8', c8: '#d0bfff', c9: '#d3a67a' },
};

/** What is drawn in a colour names its pen as a class and `currentColor` as its fill or stroke. */
const PENS = `
svg text { font-family: ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 12px; fill: var(--ink) }
svg .title { font-size: 15px; font-weight: 600 } svg .faint { fill: var(--faint) } svg .small { font-size: 11px }
svg .rule { stroke: var(--rule); stroke-width: 1 } svg .axis { stroke: var(--faint); stroke-width: 1 }
svg .line { fill: none; stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round } svg .first { stroke-width: 3.25 }
svg .band { opacity: .14; stroke: none } svg .label { fill: currentColor }
${Object.keys(LIGHT)
  .map((name) => `svg .${name} { color: var(--${name}) }`)
  .join(' ')}
`;
const DARK_PAGE = '@media (prefers-color-scheme: dark)';
const properties = (palette) =>
  Object.entries(palette)
    .map(([name, color]) => `--${name}: ${color}`)
    .join('; ');

/** Of a page, which uses the properties itself. */
export const STYLE = `:root { ${properties(LIGHT)} } ${DARK_PAGE} { :root { ${properties(DARK)} } }${PENS}`;

/** Colours as they are: viewers of pictures know no custom properties, and some no dark page either. */
const painted = (palette) => PENS.replaceAll(/var\(--(\w+)\)/g, (_, name) => palette[name]);

/** A file of its own: with its style and its paper. */
export function standalone({ width, height, body, title }) {
  const attributes = `xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}"`;
  const paper = `<rect class="paper" width="${width}" height="${height}" rx="10" fill="currentColor"/>`;
  const style = `<style>${painted(LIGHT)}${DARK_PAGE} {${painted(DARK)}}</style>`;
  return `<svg ${attributes} role="img"><title>${escaped(title)}</title>${style}${paper}${body}</svg>\n`;
}

/** Part of a page, which has the style. */
export const inline = ({ width, height, body, title }) =>
  `<svg viewBox="0 0 ${width} ${height}" role="img" style="max-width:${width}px"><title>${escaped(title)}</title>${body}</svg>`;

/** Plots beside each other as one. */
export function beside(plots) {
  let at = 0;
  const parts = plots.map(({ width, body }) => {
    const part = `<g transform="translate(${at} 0)">${body}</g>`;
    at += width;
    return part;
  });
  const height = Math.max(...plots.map((plot) => plot.height));
  return { width: at, height, body: parts.join(''), title: plots.map(({ title }) => title).join('; ') };
}

const round = (value) => Math.round(value * 10) / 10;

// ---- scales: each { toUnit(value) -> 0..1, ticks }

function linear(values) {
  const [low, high] = [Math.min(0, ...values), Math.max(...values)];
  const span = high - low || 1;
  const step = [1, 2, 2.5, 5, 10]
    .map((each) => each * 10 ** Math.floor(Math.log10(span / 5)))
    .find((each) => span / each <= 6);
  const top = Math.ceil(high / step - 1e-9) * step || 1;
  const ticks = Array.from({ length: Math.round((top - low) / step) + 1 }, (_, i) => low + i * step);
  return { toUnit: (value) => (value - low) / (top - low), ticks };
}

function logarithmic(values, base = 10) {
  const positive = values.filter((value) => value > 0);
  const exponent = (value) => Math.log(value) / Math.log(base);
  let low = Math.floor(exponent(Math.min(...positive)) + 1e-9);
  let high = Math.ceil(exponent(Math.max(...positive)) - 1e-9);
  if (low === high) [low, high] = [low - 1, high + 1];
  const step = Math.max(1, Math.ceil((high - low) / 8));
  const ticks = [];
  for (let each = low; each <= high; each += step) ticks.push(base ** each);
  return { toUnit: (value) => (exponent(Math.max(value, base ** low)) - low) / (high - low), ticks };
}

/** Percentiles, by how few are beyond: 50, 90, 99, 99.9 … are equally far apart, nearly. */
function nines(values) {
  const beyond = (rank) => -Math.log10(1 - rank / 100);
  const [low, high] = [beyond(Math.min(...values)), beyond(Math.max(...values))];
  const ticks = [50, 90, 99, 99.9, 99.99].filter((rank) => values.some((value) => value >= rank));
  return { toUnit: (rank) => (beyond(rank) - low) / (high - low), ticks };
}

const SCALES = { linear, log: (values) => logarithmic(values), binary: (values) => logarithmic(values, 2), nines };

/** Where labels stand so that none covers another: pushed apart, as near to their lines as may be. */
function spreadLabels(labels, gap, low, high) {
  const sorted = [...labels].sort((a, b) => a.y - b.y);
  for (let i = 1; i < sorted.length; i += 1) sorted[i].y = Math.max(sorted[i].y, sorted[i - 1].y + gap);
  const over = (sorted.at(-1)?.y ?? 0) - high;
  if (over > 0) {
    sorted.at(-1).y -= over;
    for (let i = sorted.length - 2; i >= 0; i -= 1) sorted[i].y = Math.min(sorted[i].y, sorted[i + 1].y - gap);
  }
  for (const label of sorted) label.y = Math.max(label.y, low);
  return sorted;
}

/**
 * @param plot
 *   title, subtitle
 *   x, y     { label, scale: 'linear' | 'log' | 'binary' | 'nines', format }
 *   lines    [{ name, color: class number, isFirst, points: [{ x, y, min, max }] }]; without x: a level, right across
 */
export function linePlot({ title, subtitle = '', x, y, lines, width = 520, height = 340 }) {
  const labelWidth = 14 + 6.8 * Math.max(...lines.map(({ name }) => name.length));
  const box = { left: 62, right: width - Math.min(labelWidth, 0.42 * width), top: 56, bottom: height - 46 };
  const all = lines.flatMap(({ points }) => points);
  const given = all.map((point) => point.x).filter((value) => value !== undefined);
  const scaleX = SCALES[x.scale](given.length > 0 ? given : [0, 1]);
  const scaleY = SCALES[y.scale](all.flatMap((point) => [point.y, point.min ?? point.y, point.max ?? point.y]));
  const atX = (value) => round(box.left + scaleX.toUnit(value) * (box.right - box.left));
  const atY = (value) => round(box.bottom - Math.max(0, Math.min(1, scaleY.toUnit(value))) * (box.bottom - box.top));
  const parts = [
    `<text class="title" x="16" y="24">${escaped(title)}</text>`,
    `<text class="faint small" x="16" y="41">${escaped(subtitle)}</text>`,
  ];
  for (const tick of scaleY.ticks) {
    parts.push(`<line class="rule" x1="${box.left}" x2="${box.right}" y1="${atY(tick)}" y2="${atY(tick)}"/>`);
    parts.push(
      `<text class="faint small" x="${box.left - 7}" y="${atY(tick) + 4}" text-anchor="end">${escaped(y.format(tick))}</text>`,
    );
  }
  for (const tick of x.ticks ?? scaleX.ticks) {
    parts.push(`<line class="axis" x1="${atX(tick)}" x2="${atX(tick)}" y1="${box.bottom}" y2="${box.bottom + 4}"/>`);
    parts.push(
      `<text class="faint small" x="${atX(tick)}" y="${box.bottom + 17}" text-anchor="middle">${escaped(x.format(tick))}</text>`,
    );
  }
  parts.push(`<line class="axis" x1="${box.left}" x2="${box.right}" y1="${box.bottom}" y2="${box.bottom}"/>`);
  parts.push(
    `<text class="faint small" x="${(box.left + box.right) / 2}" y="${height - 10}" text-anchor="middle">${escaped(x.label)}</text>`,
  );

  const labels = [];
  for (const { name, color, isFirst, points } of [...lines].reverse()) {
    const pen = `${isFirst ? 'first ' : ''}c${color}`;
    const placed = points.filter((point) => point.x !== undefined);
    if (placed.length === 0) {
      const level = atY(points[0].y);
      parts.push(
        `<line class="line c${color}" stroke="currentColor" stroke-dasharray="2 5" x1="${box.left}" x2="${box.right}" y1="${level}" y2="${level}"/>`,
      );
      labels.push({ name, color, y: level });
      continue;
    }
    const ranged = placed.filter(({ min, max }) => min !== undefined && max > min);
    if (ranged.length > 1) {
      const outline = [
        ...ranged.map((p) => `${atX(p.x)},${atY(p.max)}`),
        ...ranged.reverse().map((p) => `${atX(p.x)},${atY(p.min)}`),
      ];
      parts.push(`<polygon class="band c${color}" fill="currentColor" points="${outline.join(' ')}"/>`);
    } else {
      for (const p of ranged)
        parts.push(
          `<line class="line c${color}" stroke="currentColor" x1="${atX(p.x)}" x2="${atX(p.x)}" y1="${atY(p.min)}" y2="${atY(p.max)}"/>`,
        );
    }
    const path = placed.map((p) => `${atX(p.x)},${atY(p.y)}`).join(' ');
    if (placed.length > 1) parts.push(`<polyline class="line ${pen}" stroke="currentColor" points="${path}"/>`);
    if (placed.length <= 12) {
      for (const p of placed)
        parts.push(
          `<circle class="c${color}" cx="${atX(p.x)}" cy="${atY(p.y)}" r="${isFirst ? 4.5 : 3.5}" fill="currentColor"/>`,
        );
    }
    labels.push({ name, color, isFirst, y: atY(placed.at(-1).y) });
  }
  for (const { name, color, isFirst, y: at } of spreadLabels(labels, 14, box.top, box.bottom)) {
    const weight = isFirst ? ' font-weight="700"' : '';
    parts.push(
      `<text class="label c${color}" x="${box.right + 9}" y="${round(at + 4)}"${weight}>${escaped(name)}</text>`,
    );
  }
  return { width, height, body: parts.join(''), title };
}

/**
 * How far from each goal: a share of it on a logarithmic scale, with the spread. Right of the middle it is reached.
 * @param rows [{ label, bound, value, isReached, of, low, high }] shares, or `of` null for what was not measured
 */
export function goalPlot({ title, subtitle, rows, width = 1120 }) {
  const [rowHeight, top] = [22, 74];
  const height = top + rows.length * rowHeight + 20;
  const [left, right] = [0.45 * width, 0.68 * width];
  const span = 1.5; // decades each way
  const at = (share) => {
    const exponent = Math.max(-span, Math.min(span, Math.log10(share)));
    return round(left + ((exponent + span) / (2 * span)) * (right - left));
  };
  const parts = [
    `<text class="title" x="16" y="24">${escaped(title)}</text>`,
    `<text class="faint small" x="16" y="41">${escaped(subtitle)}</text>`,
  ];
  for (const [share, label] of [
    [0.1, 'a tenth'],
    [0.5, ''],
    [1, 'the goal'],
    [2, ''],
    [10, 'ten times'],
  ]) {
    const pen = share === 1 ? 'axis' : 'rule';
    parts.push(`<line class="${pen}" x1="${at(share)}" x2="${at(share)}" y1="${top - 8}" y2="${height - 16}"/>`);
    parts.push(`<text class="faint small" x="${at(share)}" y="${top - 14}" text-anchor="middle">${label}</text>`);
  }
  const text = (x, y, pen, content, more = '') =>
    `<text x="${x}" y="${y + 4}" ${pen}${more}>${escaped(content)}</text>`;
  for (const [i, { label, bound, value, isReached, of, low, high }] of rows.entries()) {
    const y = top + i * rowHeight + 9;
    const color = isReached ? 'good' : 'bad';
    const isMeasured = of !== null;
    const faint = 'class="faint"';
    parts.push(text(left - 14, y, isMeasured ? '' : faint, label, ' text-anchor="end"'));
    parts.push(text(right + 16, y, isMeasured ? `class="label ${color}"` : faint, value));
    parts.push(text(right + 190, y, faint, bound));
    if (!isMeasured) continue;
    const line = (from, to, pen) =>
      `<line class="${color}" x1="${at(from)}" x2="${at(to)}" y1="${y}" y2="${y}" stroke="currentColor" ${pen}/>`;
    parts.push(line(1, of, 'stroke-width="2" opacity=".35"'));
    if (high > low) parts.push(line(low, high, 'stroke-width="1.5"'));
    const circle = (pen, more) => `<circle class="${pen}" cx="${at(of)}" cy="${y}" r="5.5" ${more}/>`;
    if (!isReached) parts.push(circle('paper', 'fill="currentColor"'));
    parts.push(circle(color, `fill="${isReached ? 'currentColor' : 'none'}" stroke="currentColor" stroke-width="2"`));
  }
  return { width, height, body: parts.join(''), title };
}
