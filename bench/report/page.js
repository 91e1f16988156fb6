/** One HTML page that needs nothing but itself. */
import { spread } from '../statistics.js';
import { escaped, inline, STYLE } from './plot.js';
import { coursePlots, familyPlots, goalsPicture, latencyPicture, latencyPlots, throughputPicture } from './plots.js';
import { details, figure, ratiosOf } from './text.js';

const SHEET = `${STYLE}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 40px 32px 80px }
h1 { font-size: 34px; line-height: 1.15; letter-spacing: -.02em; margin: 0 0 6px } h1 b { color: var(--c0) }
h2 { font-size: 22px; margin: 56px 0 12px; padding-top: 20px; border-top: 1px solid var(--rule); letter-spacing: -.01em }
h3 { font-size: 15px; margin: 26px 0 6px } h3 small { font-weight: 400; color: var(--faint) }
p, li { max-width: 74ch } .faint { color: var(--faint) } svg { width: 100%; height: auto; display: block }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(440px, 1fr)); gap: 20px; align-items: start }
nav { margin: 18px 0 0; display: flex; flex-wrap: wrap; gap: 6px 16px } a { color: var(--c1) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px }
td { padding: 3px 10px 3px 0; vertical-align: middle } td.n { text-align: right; white-space: nowrap; width: 13% } td.who { width: 27%; line-height: 1.25 }
td.bar { width: 34% } .track { position: relative; height: 14px; background: var(--rule); border-radius: 3px }
.fill { position: absolute; inset: 0 auto 0 0; background: var(--c6); border-radius: 3px; min-width: 2px }
tr.first .fill { background: var(--c0) } tr.first td.who { font-weight: 600 }
.whisker { position: absolute; top: 6px; height: 2px; background: var(--ink); opacity: .65 }
details { color: var(--faint); font-size: 13px; margin-top: 2px } summary { cursor: pointer } details li { margin: 2px 0 }
.better { color: var(--good) } .worse { color: var(--bad) }
`;

function rowTable(row) {
  const { name, unit, better, results, reference = results[0].who } = row;
  const spreads = results.map(({ rounds }) => spread(rounds.map(({ value }) => value)));
  const most = Math.max(...spreads.map(({ max }) => max)) || 1;
  const times = ratiosOf(row);
  const lines = results.map((result, i) => {
    const { median, min, max } = spreads[i];
    const share = (value) => `${Math.max(0, Math.min(100, (100 * value) / most)).toFixed(2)}%`;
    const whisker =
      min === max ? '' : `<span class="whisker" style="left:${share(min)};width:${share(max - min)}"></span>`;
    const bar = `<div class="track"><div class="fill" style="width:${share(median)}"></div>${whisker}</div>`;
    const ratio = times[i] === null ? '' : `${figure(times[i])}×`;
    const range = min === max ? '' : `${figure(min)}–${figure(max)}`;
    const cells = [
      `<td class="n">${figure(median)}</td>`,
      `<td class="n faint">${range}</td>`,
      `<td class="n faint">${ratio}</td>`,
    ];
    return `<tr${result.who === reference ? ' class="first"' : ''}><td class="who">${escaped(result.who)}</td><td class="bar">${bar}</td>${cells.join('')}</tr>`;
  });
  const notes = results.map((result) => [result.who, details(result)]).filter(([, cells]) => cells.length > 0);
  const list = notes.map(([who, cells]) => `<li><b>${escaped(who)}</b>: ${escaped(cells.join('; '))}</li>`).join('');
  const more = list === '' ? '' : `<details><summary>latency, CPU, bytes, memory</summary><ul>${list}</ul></details>`;
  const words = [unit, better === 'less' ? 'less is better' : ''].filter(Boolean).join(', ');
  return `<h3>${escaped(name)} <small>${escaped(words)}</small></h3><table>${lines.join('')}</table>${more}`;
}

const plotsOf = (subject, plots) => {
  const own = plots.filter((each) => each.subject === subject).map(({ plot }) => `<div>${inline(plot)}</div>`);
  return own.length === 0 ? '' : `<div class="plots">${own.join('')}</div>`;
};

function baselineSection(changes, baseline) {
  if (baseline === null) return '';
  const changed = changes.filter(({ isChanged }) => isChanged);
  const lines = changed.map(({ row, who, before, now, ratio, isBetter }) => {
    const cells = [row, who].map((text) => `<td>${escaped(text)}</td>`);
    const numbers = [figure(before.median), figure(now.median)].map((text) => `<td class="n">${text}</td>`);
    return `<tr>${cells.join('')}${numbers.join('')}<td class="n ${isBetter ? 'better' : 'worse'}">${figure(ratio)}×</td></tr>`;
  });
  const words = `Of ${changes.length} results that both runs have, ${changed.length} changed by more than the spread of both.`;
  return `<h2 id="baseline">Beside an earlier run</h2><p class="faint">${escaped(`${baseline.machine.date}, commit ${baseline.machine.commit}. ${words}`)}</p><table>${lines.join('')}</table>`;
}

/** @param report what run.js writes as JSON; `earlier` the one it is compared with, or null */
export function formatPage({ machine, programs, settings, minutes, skipped, goals, rows, changes }, earlier) {
  const subjects = [...new Set(rows.map(({ subject }) => subject))];
  const plots = [...familyPlots(rows), ...coursePlots(rows), ...latencyPlots(rows)];
  const pictures = [throughputPicture(rows), latencyPicture(rows)].filter((each) => each !== null);
  const found = Object.entries(programs.found).map((each) => each.join(' '));
  const missing = Object.entries(programs.missing).map(([name, use]) => `${name} (${use})`);
  const facts = [
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.kernel}, ${machine.fileSystem}; load average before: ${machine.loadAverage.join(', ')}`,
    `Forelock ${machine.forelock}, commit ${machine.commit}; Node ${machine.node}; ${found.join(', ')}`,
    missing.length > 0 ? `Not installed: ${missing.join(', ')}` : '',
    `${settings.runs} rounds of ${settings.seconds} s in turn, volumes of ${settings.size / 2 ** 20} MiB; ${minutes.toFixed(1)} minutes`,
    ...Object.entries(skipped).map(([part, why]) => `Not measured to its end: ${part}: ${why.split('\n')[0]}`),
  ];
  const sections = subjects.map((subject) => {
    const tables = rows.filter((row) => row.subject === subject).map(rowTable);
    return `<h2 id="${subject}">${subject}</h2>${plotsOf(subject, plots)}${tables.join('')}`;
  });
  const links = subjects.map((subject) => `<a href="#${subject}">${subject}</a>`).join('');
  return `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Forelock, measured ${machine.date.slice(0, 10)}</title><style>${SHEET}</style><main>
<h1><b>Forelock</b>, measured</h1>
<p class="faint">${machine.date.slice(0, 16).replace('T', ' ')} UTC</p>
<ul class="faint">${facts
    .filter(Boolean)
    .map((text) => `<li>${escaped(text)}</li>`)
    .join('')}</ul>
<nav>${links}</nav>
<h2 id="goals">Goals</h2>${inline(goalsPicture(goals))}
${pictures.map((picture) => `<div style="margin-top:28px">${inline(picture)}</div>`).join('')}
${baselineSection(changes, earlier)}
${sections.join('\n')}
<p class="faint" style="margin-top:48px">A bar is the median of the rounds, the line over it their spread; × says how many times as much the coloured result of a
table is. Trust ratios within one run, not figures: machines drift.</p>
</main></html>
`;
}
