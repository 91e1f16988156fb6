/**
 * Is the other site's image a prefix of history when the link is cut? Under load the link is cut, once the mirror has
 * come to rest the copy is read, and for every write that it lacks a later one must be lacking, too: one that was begun
 * after the lacking one had been answered.
 */
import { readFileSync } from 'node:fs';
import { NbdClient } from '../../dist/src/index.js';
import { startPair } from '../gateways.js';
import { sleep, until } from '../processes.js';
import { MIRROR_MODES, startQemuMirror } from '../qemu-mirror.js';

export const needs = ['gcc', 'fio'];

const BLOCK = 4096;
const SIZE = 32 * 2 ** 20;
const BLOCKS = SIZE / BLOCK;
const DEPTH = 32;
const ROUND_TRIP_MS = 20;
const READ_SIZE = 2 ** 20;
const LOAD_MS = 500;
/** Until what was on its way when the link was cut has arrived or never will. */
const REST_MS = 500;
const REST_MS_MAX = 10_000;

/**
 * Writes numbered blocks at random until told to stop.
 * @returns the history: of every write { block, begun, answered }, by number; times count events, Infinity is never
 */
async function writeNumbered(uri, going) {
  const client = await NbdClient.connect(uri);
  const history = [{ block: -1, begun: 0, answered: 0 }]; // number 0 is what was there before
  let events = 0;
  const now = () => {
    events += 1;
    return events;
  };
  const busy = new Set();
  const lane = async () => {
    const bytes = Buffer.alloc(BLOCK);
    while (going()) {
      let block = Math.floor(Math.random() * BLOCKS);
      while (busy.has(block)) block = (block + 1) % BLOCKS; // two writes of one block at once have no order
      busy.add(block);
      const entry = { block, begun: now(), answered: Number.POSITIVE_INFINITY };
      bytes.writeUInt32LE(history.push(entry) - 1);
      await client.write(block * BLOCK, bytes);
      entry.answered = now();
      busy.delete(block);
    }
  };
  const lanes = Promise.allSettled(Array.from({ length: DEPTH }, lane));
  await until(() => !going(), REST_MS_MAX);
  // a mirror that waits for the other site answers nothing any more: what is in flight stays unanswered
  await Promise.race([lanes, sleep(REST_MS)]);
  client.destroy();
  await lanes;
  return history;
}

/** @returns how many writes the image lacks, and how many of these it should have, having a later one */
function judge(history, image) {
  const lastBegun = Math.max(
    0,
    ...history.filter((_, number) => isThere(history, image, number)).map(({ begun }) => begun),
  );
  const lacking = history.filter(({ block }, number) => block >= 0 && numberAt(image, block) < number);
  return { lacking: lacking.length, overtaken: lacking.filter(({ answered }) => answered < lastBegun).length };
}

const numberAt = (image, block) => image.readUInt32LE(block * BLOCK);
const isThere = (history, image, number) => number > 0 && numberAt(image, history[number].block) === number;

async function cutUnderLoad(contender, line, readCopy) {
  let isGoing = true;
  await contender.prepare();
  const load = writeNumbered(contender.uri, () => isGoing);
  await sleep(LOAD_MS * (1 + Math.random()));
  await line.cut();
  await sleep(REST_MS / 2);
  isGoing = false;
  const history = await load;
  return judge(history, await readCopy());
}

/** What the standby shows once it has applied all that it got. */
async function readStandby({ target }) {
  const settled = async () => {
    const { received, applied } = (await target.group()).cursors.peer;
    return received === applied;
  };
  await sleep(REST_MS);
  await until(settled, REST_MS_MAX);
  const { nbdUris } = await target.status();
  const client = await NbdClient.connect(nbdUris[0]);
  const parts = [];
  for (let at = 0; at < SIZE; at += READ_SIZE) parts.push(await client.read(at, READ_SIZE));
  await client.close();
  return Buffer.concat(parts);
}

async function openPair(context) {
  const pair = await startPair(context);
  return { mirror: pair, line: pair.line, readCopy: () => readStandby(pair) };
}

async function openQemu(context, mode) {
  const mirror = await startQemuMirror(context, mode, { isEmpty: true });
  const readCopy = async () => {
    await sleep(REST_MS);
    return readFileSync(mirror.copy);
  };
  return { mirror, line: mirror.line, readCopy };
}

export async function* run(context) {
  const sized = { ...context, size: SIZE };
  const ways = [{ who: 'forelock', open: () => openPair(sized) }];
  for (const mode of context.hasQemuMirror ? MIRROR_MODES : [])
    ways.push({ who: `qemu ${mode}`, open: () => openQemu(sized, mode) });
  const results = ways.map(({ who }) => ({ who, rounds: [] }));
  for (let round = 0; round < context.runs; round += 1) {
    for (const [i, { who, open }] of ways.entries()) {
      context.say(`prefix: ${who}, round ${round + 1} of ${context.runs}`);
      const { mirror, line, readCopy } = await open();
      try {
        const { lacking, overtaken } = await cutUnderLoad(mirror.at(ROUND_TRIP_MS), line, readCopy);
        results[i].rounds.push({ value: overtaken, lacking });
      } finally {
        await mirror.stop();
      }
    }
  }
  for (const result of results) {
    const cuts = result.rounds.filter(({ value }) => value > 0).length;
    result.note = `${cuts === 0 ? 'a prefix of history after every cut' : `no prefix after ${cuts} of ${result.rounds.length} cuts`}; lacked ${result.rounds.map(({ lacking }) => lacking).join(', ')} writes`;
  }
  const name = 'link cut under load: writes lost at the other site although later ones are there';
  yield { subject: 'prefix', key: 'overtaken', name, unit: 'writes', better: 'less', results };
}
