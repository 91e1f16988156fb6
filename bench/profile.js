/**
 * Where the time of profiled processes went, by function.
 *
 *     npm run bench -- --only volume --jobs rw32 --profile DIRECTORY
 *     node bench/profile.js DIRECTORY/alone [rows]
 *
 * Shares are of the time in which the thread was not idle; one table for every thread of the process.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const [directory, rows = '25'] = process.argv.slice(2);
if (directory === undefined) {
  process.stderr.write('usage: node bench/profile.js DIRECTORY [rows]\n');
  process.exit(2);
}

/** A native function, like writeBuffer, says little without who called it. */
function nameOfNode({ callFrame: { functionName, url, lineNumber } }, parent) {
  const name = functionName || '(anonymous)';
  if (url !== '') return `${name} ${url.split('/').slice(-2).join('/')}:${lineNumber + 1}`;
  const caller = parent?.callFrame;
  return caller === undefined || caller.url === '' || name.startsWith('(') ? name : `${name} < ${caller.functionName}`;
}

for (const file of readdirSync(directory).filter((name) => name.endsWith('.cpuprofile'))) {
  const { nodes, samples, timeDeltas } = JSON.parse(readFileSync(join(directory, file), 'utf8'));
  const parentOf = new Map(nodes.flatMap((node) => (node.children ?? []).map((child) => [child, node])));
  const nameOf = new Map(nodes.map((node) => [node.id, nameOfNode(node, parentOf.get(node.id))]));
  const self = new Map();
  samples.forEach((id, i) => {
    const name = nameOf.get(id);
    self.set(name, (self.get(name) ?? 0) + Math.max(0, timeDeltas[i]));
  });
  const idle = self.get('(idle)') ?? 0;
  self.delete('(idle)');
  const busy = [...self.values()].reduce((sum, value) => sum + value, 0);
  console.log(`${file}: busy ${(busy / 1e6).toFixed(2)} s, idle ${(idle / 1e6).toFixed(2)} s`);
  for (const [name, time] of [...self].sort((a, b) => b[1] - a[1]).slice(0, Number(rows))) {
    console.log(`  ${((100 * time) / busy).toFixed(1).padStart(5)} %  ${name}`);
  }
}
