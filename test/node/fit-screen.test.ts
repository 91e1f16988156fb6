import { expect, test } from 'vitest';
import { fitScreen } from '../../src/node/fit-screen.js';
import { COLOURS, formatStatus, PLAIN } from '../../src/node/format-status.js';
import { FakeGateway, groupStatus } from './fake-gateway.js';

const { failed: _, ...journal } = groupStatus().journal;
const failed = 'the journal can no longer be written (EIO: i/o error, write); what was answered is in memory only';
const pages = (columns: number, colours = false): string[] => {
  const status = new FakeGateway().status();
  status.groups = [groupStatus({ journal: { ...journal, failed } })];
  return [{}, { brief: true }].map((page) => formatStatus(status, colours ? COLOURS : PLAIN, { ...page, columns }));
};
// biome-ignore lint/suspicious/noControlCharactersInRegex: colours are control sequences
const plain = (text: string): string => text.replace(/\x1b\[[0-9;]*m/g, '');

test('a page of 79 columns is whole: long lines go on below, and tables', () => {
  expect(fitScreen(pages(79), 79, 24).join('\n')).toBe(`site a  forelock 0.1.0, up 12 s
  nbd://127.0.0.1:10809/disk

group main  primary  ack local, speculation on, on-reject target-retry, kernel
  wasm
  link       streaming  site b at ws://127.0.0.1:10900
             round trip 50.3 ms, sent 3 GiB, received 12.1 KiB, 3 connects,
             epoch 3.1
  failed     the journal can no longer be written (EIO: i/o error, write); what
             was answered is in memory only
  lag        5 MiB, 120 records, oldest 51 ms
  journal    512 MiB of 2 GiB (25 %), 8 segments, ring 64 MiB, 333 B since the
             checkpoint

  volume   size   mapped  block  platter
  disk    1 GiB  300 MiB   4096  journal

  stream  appended  sealed  sent  received  granted  applied  durable
  own         1000    1000   990         0        0        0      950
  peer's         -       -     -       900      890      880      800
  stream  peerDurable  trimmed
  own             800      800`);
});

test('nothing is wider or longer than the terminal, whatever its size, and what is left out is counted', () => {
  const lines = fitScreen(pages(39), 39, 14);
  expect(lines).toHaveLength(14);
  expect(lines[13]).toMatch(/^… \d+ more lines$/);
  expect(lines.join('\n')).toContain('lag        5 MiB'); // it comes before cursors and traffic
  for (let columns = 1; columns < 120; columns += 1) {
    for (const colours of [false, true]) {
      // in five columns and fewer a line was indented as far as it went, and there was no end of lines
      for (const rows of [1, 5, 24, 100, 10_000]) {
        const fit = fitScreen(pages(columns, colours), columns, rows);
        expect(fit.length).toBeLessThanOrEqual(rows);
        for (const line of fit) expect(plain(line).length).toBeLessThanOrEqual(columns);
      }
    }
  }
});

test('colours do not count, and are not cut', () => {
  const red = COLOURS.bad('abcdefghij');
  expect(fitScreen([`x ${red}`], 12, 9)).toEqual([`x ${red}`]);
  expect(fitScreen([red], 8, 9)).toEqual(['\x1b[31mabcdefgh', '  ij\x1b[0m']);
});
