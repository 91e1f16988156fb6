/**
 * Structure as tests: who may import whom, which files are pure, which words are banned and what to use instead.
 *
 * A rule takes the files of the repository and gives back what breaks it. Each rule has a canary beside it: a made-up
 * file that must be found, so that a rule which has gone blind fails as well.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join, normalize, relative } from 'node:path';
import { describe, expect, test } from 'vitest';

const ROOT = join(import.meta.dirname, '..');
const SKIPPED = new Set(['node_modules', 'dist', '.git', 'results', '.kit']);

type Files = ReadonlyMap<string, string>;

function readTree(): Files {
  const files = new Map<string, string>();
  const walk = (folder: string): void => {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      if (SKIPPED.has(entry.name)) continue;
      const path = join(folder, entry.name);
      if (entry.isDirectory()) walk(path);
      else if (entry.isFile() && /\.(ts|js|c|json|md|yaml|yml|txt)$|^run$|^LICENSE$/.test(entry.name)) {
        files.set(relative(ROOT, path), readFileSync(path, 'utf8'));
      }
    }
  };
  walk(ROOT);
  return files;
}

interface Import {
  /** Path within the repository, or a package's or built-in's name. */
  to: string;
  typeOnly: boolean;
}

/** Static and dynamic imports and re-exports of a file. */
function importsOf(path: string, text: string): Import[] {
  const found: Import[] = [];
  const add = (specifier: string, typeOnly: boolean): void => {
    const to = specifier.startsWith('.')
      ? normalize(join(dirname(path), specifier)).replace(/\.js$/, '.ts')
      : specifier;
    found.push({ to, typeOnly });
  };
  for (const [, type, names, specifier] of text.matchAll(
    /^\s*(?:import|export)\s+(type\s+)?(?:([\w*{][^;'"]*?)\s+from\s+)?'([^']+)'/gm,
  )) {
    const braces = /^\{([^}]*)\}$/.exec(names?.trim() ?? '');
    const each = braces?.[1]?.split(',').filter((name) => name.trim() !== '') ?? [];
    add(specifier!, type !== undefined || (each.length > 0 && each.every((name) => /^\s*type\s/.test(name))));
  }
  for (const [, specifier] of text.matchAll(/\bimport\(\s*'([^']+)'/g)) add(specifier!, false);
  return found;
}

/** The text without comments, strings and patterns, line by line as it was. */
function codeOf(text: string): string {
  const blank = (piece: string): string => piece.replace(/[^\n]/g, ' ');
  return text.replace(
    /\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|(?<=[=(,:&|!]\s*)\/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n])+\//g,
    blank,
  );
}

function lineOf(text: string, index: number): number {
  return text.slice(0, index).split('\n').length;
}

/** Layers of src/, highest first. A file imports values from its own layer and those below it. */
const LAYERS: readonly (readonly string[])[] = [
  ['src/index.ts', 'src/node/'],
  ['src/frontend/'],
  ['src/volume/'],
  ['src/mirror/', 'src/link/', 'src/platter/'],
  ['src/journal/'],
  ['src/kernel/'],
  ['src/assert.ts', 'src/errors.ts', 'src/limits.ts', 'src/paths.ts', 'src/sockets.ts', 'src/units.ts'],
  ['assembly/layout.ts'],
];

/** Neighbours within a layer that must not know each other. */
const STRANGERS: readonly (readonly [string, string])[] = [
  ['src/mirror/', 'src/link/'],
  ['src/link/', 'src/mirror/'],
  ['src/mirror/', 'src/platter/'],
  ['src/link/', 'src/platter/'],
  ['src/platter/', 'src/mirror/'],
  ['src/platter/', 'src/link/'],
  ['src/frontend/nbd/', 'src/frontend/library/'],
  ['src/frontend/library/', 'src/frontend/nbd/'],
];

/** Types that look upward: shapes of what the layer above hands in. Values never do. */
const UPWARD_TYPES = new Set([
  'src/journal/checkpointer.ts > src/mirror/target.ts',
  'src/journal/checkpointer.ts > src/volume/group-state.ts',
  'src/mirror/target.ts > src/volume/locks.ts',
  'src/platter/writeback.ts > src/volume/group.ts',
  'src/platter/writeback.ts > src/volume/group-state.ts',
  'src/platter/writeback.ts > src/volume/volume.ts',
]);

/** Sans-IO: events and time go in, effects come out. Folders and files. */
const PURE = [
  'src/mirror/',
  'src/volume/locks.ts',
  'src/volume/gate.ts',
  'src/volume/device.ts',
  'src/journal/record.ts',
  'src/journal/map.ts',
  'src/journal/liveness.ts',
  'src/journal/recovery.ts',
  'src/frontend/nbd/protocol.ts',
  'src/frontend/nbd/negotiation.ts',
  'src/frontend/nbd/refusal.ts',
  'src/kernel/reference/',
  'src/units.ts',
];

const IMPURE_WORD =
  /\b(Date|performance|setTimeout|setInterval|setImmediate|queueMicrotask|process|fetch|WebSocket|Atomics|crypto|Promise|async|await)\b|\bMath\.random\b/g;

/** Who may look at a clock or start a timer: the outermost layer, and the one place of each front end or link that is given to it. */
/** The pool takes the time of reads of files, which has nothing to do with the time that machines are told. */
const CLOCKS = [
  ...['src/node/', 'src/link/clock.ts', 'src/frontend/nbd/server.ts'],
  ...['src/kernel/pool.ts', 'src/kernel/worker.ts'],
];

interface Ban {
  word: RegExp;
  instead: string;
  except?: readonly string[];
}

const BANNED: readonly Ban[] = [
  { word: /\blen\b/g, instead: 'size (bytes), blockCount or count' },
  { word: /\bconsole\.\w+/g, instead: 'process.stdout or process.stderr, in node/ only' },
  {
    word: /\bDate\.now\b|\bperformance\.now\b|\bsetTimeout\b|\bsetInterval\b/g,
    instead: 'Platform.nowMs and tick, or the link clock',
    except: CLOCKS,
  },
  { word: /\bMath\.random\b/g, instead: 'a source of randomness that is given', except: ['src/link/endpoint.ts'] },
  { word: /\bprocess\.exit\b/g, instead: 'an error, or an exit code that is returned', except: ['src/node/cli.ts'] },
  { word: /\bBuffer\.slice\b|\bnew Buffer\b/g, instead: 'subarray, Buffer.from or Buffer.alloc' },
  { word: /\beval\b|\bnew Function\b/g, instead: 'nothing: write the code' },
  { word: /\bas any\b|: any\b/g, instead: 'unknown, and a check' },
  { word: /\bmaster\b|\bslave\b/gi, instead: 'source and target, or primary and standby' },
];

/** Formats and protocols own the limits that are part of them; everybody else's are in a limits file. */
const OWN_LIMITS = [
  'src/limits.ts',
  'src/frontend/nbd/limits.ts',
  'src/journal/superblock.ts',
  'src/link/link.ts',
  'src/link/key.ts',
  'src/mirror/wire.ts',
];

const isIn = (path: string, places: readonly string[]): boolean =>
  places.some((place) => (place.endsWith('/') ? path.startsWith(place) : path === place));

const layerOf = (path: string): number => LAYERS.findIndex((places) => isIn(path, places));

interface Rule {
  name: string;
  check(files: Files): string[];
  /** Files that must each be found. */
  canaries: Record<string, string>;
}

function eachSource(files: Files, check: (path: string, text: string) => string[]): string[] {
  return [...files].flatMap(([path, text]) =>
    path.startsWith('src/') && path.endsWith('.ts') && !path.endsWith('.d.ts') ? check(path, text) : [],
  );
}

function eachWord(path: string, text: string, word: RegExp, say: (found: string) => string): string[] {
  const code = codeOf(text);
  return [...code.matchAll(word)].map((match) => `${path}:${lineOf(code, match.index)}: ${say(match[0])}`);
}

const RULES: Rule[] = [
  {
    name: 'imports go downward',
    check: (files) =>
      eachSource(files, (path, text) => {
        const layer = layerOf(path);
        if (layer < 0) return [`${path}: belongs to no layer; add it to LAYERS`];
        return importsOf(path, text).flatMap(({ to, typeOnly }) => {
          if (!to.startsWith('src/') && !to.startsWith('assembly/')) return [];
          const target = layerOf(to);
          if (target < 0) return [`${path}: imports ${to}, which is in no layer (of assembly/, only layout.ts)`];
          if (STRANGERS.some(([from, stranger]) => path.startsWith(from) && to.startsWith(stranger)))
            return [`${path}: imports ${to}, a neighbour that it must not know`];
          if (target >= layer || (typeOnly && UPWARD_TYPES.has(`${path} > ${to}`))) return [];
          return [`${path}: imports ${to} from a layer above`];
        });
      }),
    canaries: {
      'src/journal/a.ts': "import { Group } from '../volume/group.js';",
      'src/kernel/b.ts': "import type { Journal } from '../journal/journal.js';",
      'src/mirror/c.ts': "import { WsLink } from '../link/ws-link.js';",
      'src/kernel/d.ts': "import { seal } from '../../assembly/record.js';",
      'src/volume/e.ts': "const { NbdServer } = await import('../frontend/nbd/server.js');",
      'src/elsewhere/f.ts': '',
      'src/mirror/target.ts': "import { RangeLocks } from '../volume/locks.js';", // allowed for its type only
    },
  },
  {
    name: 'the reference kernel stands alone, and nobody leans on it',
    check: (files) =>
      eachSource(files, (path, text) =>
        importsOf(path, text).flatMap(({ to }) => {
          const inside = path.startsWith('src/kernel/reference/');
          if (inside) {
            const own = to.startsWith('src/kernel/reference/');
            const shared = ['assembly/layout.ts', 'src/kernel/kernel.ts', 'src/kernel/bounds.ts'].includes(to);
            return own || shared ? [] : [`${path}: the reference imports ${to}`];
          }
          if (!to.startsWith('src/kernel/reference/')) return [];
          // `forelock log` reads journals without shared memory or Wasm; create.ts chooses the twin
          const chooses = ['src/kernel/create.ts', 'src/kernel/compare.ts', 'src/node/log.ts'].includes(path);
          return chooses ? [] : [`${path}: imports ${to}; use createKernel`];
        }),
      ),
    canaries: {
      'src/kernel/reference/a.ts': "import { createWasmKernel } from '../wasm.js';",
      'src/kernel/reference/b.ts': "import { PRIME } from '../../../assembly/primes.js';",
      'src/kernel/reference/c.ts': "import xxhash from 'xxhash-wasm';",
      'src/volume/d.ts': "import { xxh64 } from '../kernel/reference/xxh64.js';",
    },
  },
  {
    name: 'machines, codecs and decisions are pure',
    check: (files) =>
      eachSource(files, (path, text) => {
        if (!isIn(path, PURE)) return [];
        const imports = importsOf(path, text).flatMap(({ to, typeOnly }) => {
          const outside = to.startsWith('node:') || builtinModules.includes(to) || ['ws', 'piscina'].includes(to);
          return outside && !typeOnly ? [`${path}: imports ${to}`] : [];
        });
        return [...imports, ...eachWord(path, text, IMPURE_WORD, (word) => `${word} in a pure file`)];
      }),
    canaries: {
      'src/mirror/a.ts': 'const now = Date.now();',
      'src/mirror/b.ts': "import { readFileSync } from 'node:fs';",
      'src/volume/locks.ts': 'setTimeout(() => {}, 30);',
      'src/volume/gate.ts': 'export async function advance() {}',
      'src/journal/record.ts': 'const jitter = Math.random();',
      'src/frontend/nbd/protocol.ts': "import { connect } from 'net';",
      'src/kernel/reference/c.ts': 'const at = performance.now();',
    },
  },
  {
    name: 'banned words, with what to use instead',
    check: (files) =>
      eachSource(files, (path, text) =>
        BANNED.flatMap(({ word, instead, except }) =>
          except !== undefined && isIn(path, except)
            ? []
            : eachWord(path, text, word, (found) => `${found.trim()}: use ${instead}`),
        ),
      ),
    canaries: {
      'src/journal/a.ts': 'const len = 4096;',
      'src/volume/b.ts': "console.log('here');",
      'src/volume/c.ts': 'const at = performance.now();',
      'src/node/d.ts': 'const dice = Math.random();',
      'src/node/e.ts': 'process.exit(1);',
      'src/node/f.ts': 'const bytes = new Buffer(10);',
      'src/node/g.ts': "eval('1');",
      'src/node/h.ts': 'const x = y as any;',
      'src/volume/i.ts': 'const isMaster = 1, master = 2;',
    },
  },
  {
    name: 'limits that others see are in a limits file',
    check: (files) =>
      eachSource(files, (path, text) =>
        isIn(path, OWN_LIMITS)
          ? []
          : eachWord(
              path,
              text,
              /\bexport const [A-Z0-9_]+_(MAX|MIN)\b/g,
              (found) => `${found}: move it to src/limits.ts`,
            ),
      ),
    canaries: { 'src/volume/a.ts': 'export const WAITERS_MAX = 10;' },
  },
  {
    name: 'every limit in a limits file says why',
    check: (files) =>
      ['src/limits.ts', 'src/frontend/nbd/limits.ts'].flatMap((path) => {
        const lines = (files.get(path) ?? '').split('\n');
        return lines.flatMap((line, index) => {
          const name = /^export const (\w+)/.exec(line)?.[1];
          if (name === undefined || /^(KIB|MIB|GIB|TIB)$/.test(name) || line.includes('//')) return [];
          // a run of limits may share one comment, or be named so that nothing is left to say
          for (let above = index - 1; above >= 0; above -= 1) {
            if (/^\s*(\/\/|\*\/|\/\*\*.*\*\/)/.test(lines[above]!)) return [];
            if (!lines[above]!.startsWith('export const')) break;
          }
          return [`${path}:${index + 1}: ${name} has no reason beside or above it`];
        });
      }),
    canaries: { 'src/limits.ts': '\nexport const QUEUE_MAX = 17;' },
  },
  {
    name: 'nothing is left to be done later, and no path of anybody’s machine is in',
    check: (files) => {
      const later = new RegExp(`\\b(${['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX', 'HA' + 'CK'].join('|')})\\b`);
      const machine = new RegExp(
        `(^|[\\s"'\`(=:])/(${['wo' + 'rk', 'ro' + 'ot', 'ho' + 'me/\\w', 'Us' + 'ers/\\w'].join('|')})(/|\\b)|\\.\\./sha${'red'}`,
      );
      return [...files].flatMap(([path, text]) =>
        text.split('\n').flatMap((line, index) => {
          if (path === 'LICENSE' || path.endsWith('package-lock.json')) return [];
          const where = `${path}:${index + 1}`;
          return [
            ...(later.test(line) ? [`${where}: do it, or open an issue`] : []),
            ...(machine.test(line) ? [`${where}: a path of one machine: ${line.trim().slice(0, 80)}`] : []),
          ];
        }),
      );
    },
    canaries: {
      'src/a.ts': `// ${'TO' + 'DO'}: later`,
      'docs/b.md': `run ${'/ro' + 'ot'}/forelock`,
      'test/c.ts': `const kit = '../${'sha' + 'red'}/kit';`,
    },
  },
  {
    name: 'the lock file names no registry',
    check: (files) => {
      const lock = files.get('package-lock.json') ?? '';
      return /"resolved":|https?:\/\/[^"]*registry/.test(lock)
        ? ['package-lock.json: written without omit-lockfile-registry-resolved']
        : [];
    },
    canaries: { 'package-lock.json': '{ "resolved": "somewhere" }' },
  },
];

describe('the tree keeps its structure', () => {
  const files = readTree();
  test('there is something to look at', () => {
    expect([...files.keys()].filter((path) => path.startsWith('src/')).length).toBeGreaterThan(40);
    expect(importsOf('src/journal/journal.ts', files.get('src/journal/journal.ts')!).length).toBeGreaterThan(8);
  });
  test.each(RULES)('$name', ({ check }) => {
    expect(check(files)).toEqual([]);
  });
});

describe('each rule can fail', () => {
  for (const { name, check, canaries } of RULES) {
    test.each(Object.entries(canaries))(`${name}: %s`, (path, text) => {
      const found = check(new Map([[path, text]]));
      expect(found.length).toBeGreaterThan(0);
      expect(found[0]).toContain(path);
    });
  }
  test('words in comments and strings do not count', () => {
    const text = '// Date.now()\n/* len */ const a = \'console.log(1)\'; const b = "len";';
    for (const { check } of RULES.filter(({ name }) => /pure|banned/.test(name))) {
      expect(check(new Map([['src/mirror/a.ts', text]]))).toEqual([]);
    }
  });
});
