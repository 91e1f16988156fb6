/**
 * What the demonstration shows: a picture of the two sites redrawn in place on a terminal, plain lines elsewhere.
 *
 * The two lanes between the sites are strip charts. Each column is one tick: above, the records sent in it, moving to
 * the right; below, those that the peer confirmed as applied, moving to the left. The scale is logarithmic.
 */
import type { WriteStream } from 'node:tty';

export const TICK_MS = 100;
/** A plain line of figures this often. */
const PLAIN_EVERY_MS = 1000;
const COLUMNS_MIN = 80;
const COLUMNS_MAX = 112;
const ROWS_MIN = 22;
const BOX = 18;

export interface SiteView {
  name: string;
  role: string;
  process: string;
}

export interface PhaseView {
  mode: 'speculative' | 'lock-step';
  what: string;
  unit: string;
  /** One sentence about what happens. */
  why: string;
  seconds: number;
  state: 'to come' | 'running' | 'draining' | 'done';
  perSecond: number;
  p50: number;
  p99: number;
}

/** Where the stream stands, as the source sees it. */
export interface StreamView {
  appended: number;
  sent: number;
  applied: number;
}

export interface DemoView {
  title: string;
  roundTripMs: number;
  sites: [SiteView, SiteView];
  stream: StreamView;
  phases: PhaseView[];
  notes: string[];
  /** What is going on right now. */
  doing: string;
  /** 0..1 of the phase under way. */
  progress: number;
}

export interface Screen {
  draw(view: DemoView): void;
  /** A line that stays. */
  say(line: string): void;
  close(): void;
}

export interface Style {
  bold(text: string): string;
  dim(text: string): string;
  good(text: string): string;
  bad(text: string): string;
  accent(text: string): string;
  unicode: boolean;
}

/** What this stream can show: colours unless NO_COLOR or the terminal say no, box characters where the locale is UTF-8. */
export function styleOf(stream: WriteStream | NodeJS.WritableStream, env: NodeJS.ProcessEnv): Style {
  const colours = 'hasColors' in stream && stream.isTTY && stream.hasColors(16, env);
  const paint = (code: number, end: number) => (text: string) => (colours ? `\x1b[${code}m${text}\x1b[${end}m` : text);
  const locale = env.LC_ALL || env.LC_CTYPE || env.LANG || '';
  return {
    bold: paint(1, 22),
    dim: paint(2, 22),
    good: paint(32, 39),
    bad: paint(31, 39),
    accent: paint(36, 39),
    unicode: /utf-?8/i.test(locale) || process.platform === 'darwin' || process.platform === 'win32',
  };
}

export function openScreen(stream: WriteStream, env: NodeJS.ProcessEnv): Screen {
  const style = styleOf(stream, env);
  const large = (stream.columns ?? 0) >= COLUMNS_MIN && (stream.rows ?? 0) >= ROWS_MIN;
  return stream.isTTY && env.TERM !== 'dumb' && large ? new LiveScreen(stream, style) : new PlainScreen(stream);
}

/** Rates as people read them: `31,204`, `9.8`. */
export function formatRate(perSecond: number): string {
  return perSecond < 100 ? perSecond.toFixed(1) : Math.round(perSecond).toLocaleString('en-US');
}

/** Milliseconds with three digits that mean something: `0.084 ms`, `2.41 ms`, `3,210 ms`. */
export function formatMs(ms: number): string {
  if (ms >= 100) return `${Math.round(ms).toLocaleString('en-US')} ms`;
  return `${ms.toFixed(ms >= 10 ? 1 : ms >= 1 ? 2 : 3)} ms`;
}

export function formatCount(count: number): string {
  return count.toLocaleString('en-US');
}

const LEVELS = ' ▁▂▃▄▅▆▇█';
const LEVELS_ASCII = ' .:-=+*%#';

/** 0 for nothing, 1 for one, then two steps for every tenfold. */
export function levelOf(count: number): number {
  return count <= 0 ? 0 : Math.min(8, 1 + Math.floor(Math.log10(count) * 2));
}

// ---- on a terminal

class LiveScreen implements Screen {
  readonly #stream: WriteStream;
  readonly #style: Style;
  /** Records a tick, newest first. */
  readonly #sent: number[] = [];
  readonly #applied: number[] = [];
  #last: StreamView | null = null;
  #height = 0;
  readonly #onResize = (): void => {
    this.#height = 0; // what stood there may have been wrapped: begin below it
  };

  constructor(stream: WriteStream, style: Style) {
    this.#stream = stream;
    this.#style = style;
    stream.write('\x1b[?25l');
    stream.on('resize', this.#onResize);
  }

  draw(view: DemoView): void {
    const { stream } = view;
    const last = this.#last;
    // a restarted source counts its sent anew
    const step = (key: 'sent' | 'applied') => (last === null ? 0 : Math.max(0, stream[key] - last[key]));
    this.#sent.unshift(step('sent'));
    this.#applied.unshift(step('applied'));
    this.#sent.length = Math.min(this.#sent.length, COLUMNS_MAX);
    this.#applied.length = Math.min(this.#applied.length, COLUMNS_MAX);
    this.#last = { ...stream };
    this.#put(this.#lines(view));
  }

  say(line: string): void {
    this.#height = 0;
    this.#stream.write(`${line}\n`);
  }

  close(): void {
    this.#stream.off('resize', this.#onResize);
    this.#stream.write('\x1b[?25h');
  }

  /** One write for the whole picture, each line over the old one: nothing is ever blank in between. */
  #put(lines: string[]): void {
    const back = this.#height > 0 ? `\x1b[${this.#height}A` : '';
    this.#stream.write(`${back}${lines.map((line) => `\r${line}\x1b[K\n`).join('')}`);
    this.#height = lines.length;
  }

  #lines(view: DemoView): string[] {
    const { bold, dim, good, accent, unicode } = this.#style;
    const width = Math.max(COLUMNS_MIN, Math.min(COLUMNS_MAX, this.#stream.columns ?? 80)) - 2;
    const lane = width - 2 * BOX;
    const lines: string[] = ['', ` ${dim(view.title)}`, ''];
    const [west, east] = view.sites;
    lines.push(
      ` ${bold(pad(west.name, BOX))}${dim(centre(`${view.roundTripMs} ms round trip`, lane))}${bold(east.name)}`,
    );
    const [topLeft, topRight, bottomLeft, bottomRight, side, line] = unicode ? [...'┌┐└┘│─'] : [...'++++|-'];
    const top = `${topLeft}${line!.repeat(BOX - 2)}${topRight}`;
    const bottom = `${bottomLeft}${line!.repeat(BOX - 2)}${bottomRight}`;
    const row = (text: string) => `${side} ${pad(text, BOX - 4)} ${side}`;
    const right = unicode ? '▶' : '>';
    const left = unicode ? '◀' : '<';
    const { stream } = view;
    const behind = Math.max(0, stream.appended - stream.applied);
    lines.push(` ${top}${' '.repeat(lane)}${top}`);
    lines.push(
      ` ${row(west.role)}${accent(` ${this.#lane(this.#sent, lane - 3, false)}`)}${dim(right)} ${row(east.role)}`,
    );
    lines.push(
      ` ${row(west.process)} ${dim(left)}${good(`${this.#lane(this.#applied, lane - 3, true)} `)}${row(east.process)}`,
    );
    const lag = behind === 0 ? 'nothing on its way' : `${formatCount(behind)} records on their way`;
    lines.push(` ${row(formatCount(stream.appended))}${dim(centre(lag, lane))}${row(formatCount(stream.applied))}`);
    lines.push(` ${bottom}${' '.repeat(lane)}${bottom}`);
    lines.push(
      ` ${dim(pad('  records written', BOX))}${dim(centre('sent above, applied below', lane))}${dim('  records applied')}`,
    );
    lines.push('');
    for (const phase of view.phases) lines.push(this.#phase(phase));
    for (const note of view.notes) lines.push(` ${good(unicode ? '✔' : 'ok')} ${note}`);
    lines.push('');
    const bar = 20;
    const full = Math.round(bar * Math.min(1, view.progress));
    const [on, off] = unicode ? ['█', '░'] : ['#', '.'];
    lines.push(` ${accent(on!.repeat(full))}${dim(off!.repeat(bar - full))} ${clip(view.doing, width - bar - 2)}`);
    return lines;
  }

  /** A strip of `width` columns; the newest column is at the left, or at the right when it moves to the left. */
  #lane(samples: readonly number[], width: number, toTheLeft: boolean): string {
    const levels = this.#style.unicode ? LEVELS : LEVELS_ASCII;
    const columns = Array.from({ length: width }, (_, index) => levels[levelOf(samples[index] ?? 0)]!);
    return (toTheLeft ? columns.reverse() : columns).join('');
  }

  #phase(phase: PhaseView): string {
    const { bold, dim, good, accent, unicode } = this.#style;
    const title = `${pad(phase.mode, 12)}${pad(phase.what, 25)}`;
    if (phase.state === 'to come') return dim(`   ${title}`);
    const mark = phase.state === 'done' ? good(unicode ? '✔' : '*') : accent(unicode ? '▸' : '>');
    const figures = `p50 ${formatMs(phase.p50).padStart(8)}  p99 ${formatMs(phase.p99).padStart(8)}`;
    return ` ${mark} ${title}${bold(`${formatRate(phase.perSecond).padStart(7)}/s`)}  ${dim(figures)}`;
  }
}

// ---- anywhere else

class PlainScreen implements Screen {
  readonly #stream: NodeJS.WritableStream;
  #saidAt = 0;
  #doing = '';
  readonly #done = new Set<PhaseView>();
  #notes = 0;

  constructor(stream: NodeJS.WritableStream) {
    this.#stream = stream;
  }

  draw(view: DemoView): void {
    const now = performance.now();
    for (const phase of view.phases) {
      if (phase.state !== 'done' || this.#done.has(phase)) continue;
      this.#done.add(phase);
      this.say(`  ${figuresOf(phase)} (whole phase)`);
    }
    for (; this.#notes < view.notes.length; this.#notes += 1) this.say(`  ${view.notes[this.#notes]}`);
    if (view.doing !== this.#doing) {
      this.#doing = view.doing;
      this.#saidAt = now;
      this.say(view.doing);
      return;
    }
    const phase = view.phases.find((each) => each.state === 'running');
    if (phase === undefined || now - this.#saidAt < PLAIN_EVERY_MS) return;
    this.#saidAt = now;
    const { appended, applied } = view.stream;
    this.say(`  ${figuresOf(phase)}, ${formatCount(Math.max(0, appended - applied))} records behind`);
  }

  say(line: string): void {
    this.#stream.write(`${line}\n`);
  }

  close(): void {}
}

function figuresOf(phase: PhaseView): string {
  return `${formatRate(phase.perSecond)} ${phase.unit}/s, p50 ${formatMs(phase.p50)}, p99 ${formatMs(phase.p99)}`;
}

function pad(text: string, width: number): string {
  return clip(text, width).padEnd(width);
}

function centre(text: string, width: number): string {
  const shown = clip(text, width);
  const left = Math.floor((width - shown.length) / 2);
  return `${' '.repeat(left)}${shown}${' '.repeat(width - shown.length - left)}`;
}

function clip(text: string, width: number): string {
  return text.length <= width ? text : `${text.slice(0, Math.max(0, width - 1))}~`;
}
