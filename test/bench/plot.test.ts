/** Plots for people: whatever shows a picture shows it in its colours. */
import { describe, expect, test } from 'vitest';
import { goalPlot, inline, linePlot, standalone } from '../../bench/report/plot.js';

const axis = { label: 'round trip', scale: 'linear', format: String };
const lines = [
  { name: 'first', color: 0, isFirst: true, points: [0, 1, 2].map((x) => ({ x, y: 10 + x, min: 9, max: 13 })) },
  { name: 'level', color: 3, points: [{ y: 12 }] },
];
const goals = [
  { label: 'reached', bound: '≥ 1×', value: '2×', isReached: true, of: 2, low: 1.5, high: 3 },
  { label: 'missed', bound: '≥ 1×', value: '0.5×', isReached: false, of: 0.5, low: 0.4, high: 0.6 },
];
const plots = {
  lines: linePlot({ title: 'a < b', x: axis, y: axis, lines }),
  goals: goalPlot({ title: 'goals', subtitle: '', rows: goals }),
};

describe.each(Object.entries(plots))('%s', (_, plot) => {
  test('a file of its own names colours, as viewers without custom properties need them', () => {
    const picture = standalone(plot);
    expect(picture).not.toContain('var(');
    for (const pen of picture.matchAll(/class="([^"]*)"[^>]*currentColor/g)) {
      const color = pen[1]!.split(' ').at(-1)!;
      expect(picture).toMatch(new RegExp(`svg \\.${color} \\{ color: #[0-9a-f]{6} \\}`));
    }
  });

  test('both have a light and a dark page', () => {
    expect(standalone(plot).match(/svg \.paper \{ color/g)).toHaveLength(2);
    expect(inline(plot)).not.toContain('<style>');
  });
});

test('text from outside is text', () => expect(standalone(plots.lines)).toContain('<title>a &lt; b</title>'));
