/**
 * What the source has written: every record of its stream, noted when it is published, as tags of 512-byte units.
 *
 * A host's write puts a tag of its own into all words of each unit, so that what a read, a recovery or a copy shows can
 * be told apart to the record. The history says what an image must show at any sequence.
 */
import {
  AT_BLOCK_SHIFT,
  FLAG_STAGED,
  TYPE_COMMIT,
  TYPE_FLUSH,
  TYPE_TRIM,
  TYPE_WRITE,
  TYPE_ZERO,
} from '../../assembly/layout.js';
import type { Journal } from '../../src/journal/journal.js';
import { RecordHeader } from '../../src/journal/record.js';

/** Bytes of which a tag says what stands there. */
export const UNIT = 512;
const UNIT_SHIFT = 9;
const UNIT_WORDS = UNIT / 4;
/** An image is kept for every so many records. */
const SNAPSHOT_EVERY = 64;

interface HistoryRecord {
  type: number;
  /** It shows at the COMMIT; this one: so many records before it show now. */
  staged: boolean;
  commits: number;
  volume: number;
  /** Its stamp. */
  clock: number;
  /** Of the first unit, and how many. */
  unit: number;
  units: number;
  tags: Uint32Array | null;
}

/** A record that the images have long since held. */
const EARLIER: HistoryRecord = {
  type: TYPE_FLUSH,
  staged: false,
  commits: 0,
  volume: 0,
  clock: 0,
  unit: 0,
  units: 0,
  tags: null,
};

/** A volume's tags, by its number. */
export type Images = Map<number, Uint32Array>;

export class History {
  readonly #volumes: readonly { blocks: number; blockSize: number }[];
  readonly #violation: (what: string) => never;
  /** What the volumes held before the first record. */
  #initial: Images;
  /** As all records make them. */
  #now: Images;
  readonly #records: HistoryRecord[] = [];
  readonly #snapshots: Images[] = [];
  #nextTag = 1;
  /** For payloads that are lent. */
  #lent = new Uint32Array(8192);
  /** Sequence of the record that wrote a tag, by tag; 0 where none did. */
  #tagSequence = new Uint32Array(4096);
  readonly #header = new RecordHeader();

  constructor(volumes: readonly { blocks: number; blockSize: number }[], violation: (what: string) => never) {
    this.#volumes = volumes;
    const empty = volumes.map(({ blocks, blockSize }, index): [number, Uint32Array] => [
      index + 1,
      new Uint32Array((blocks * blockSize) / UNIT),
    ]);
    this.#initial = new Map(empty);
    this.#now = copyOf(this.#initial);
    this.#violation = violation;
  }

  get length(): number {
    return this.#records.length;
  }

  /** The tag of the next payload's first unit; the others follow. */
  get nextTag(): number {
    return this.#nextTag;
  }

  /** Bytes of a host's write: units with tags of their own. */
  payload(size: number): Uint8Array {
    return this.#tag(new Uint32Array(size / 4), size);
  }

  /** The same, for one call only: the bytes are others afterwards. */
  lend(size: number, call: (bytes: Uint8Array) => void): void {
    if (this.#lent.length * 4 < size) this.#lent = new Uint32Array(size / 4);
    const bytes = this.#tag(this.#lent, size);
    call(bytes);
    bytes.fill(0xee);
  }

  #tag(words: Uint32Array, size: number): Uint8Array {
    for (let unit = 0; unit < size / UNIT; unit += 1) {
      words.fill(this.#nextTag, unit * UNIT_WORDS, (unit + 1) * UNIT_WORDS);
      this.#nextTag += 1;
    }
    if (this.#nextTag > this.#tagSequence.length) {
      const grown = new Uint32Array(2 * this.#nextTag);
      grown.set(this.#tagSequence);
      this.#tagSequence = grown;
    }
    return new Uint8Array(words.buffer, 0, size);
  }

  /** An image from before there is a group: some of its blocks hold tags. @returns its bytes */
  prefill(volume: number, share: number, random: () => number): Uint8Array {
    const { blocks, blockSize } = this.#volumes[volume - 1]!;
    const bytes = new Uint8Array(blocks * blockSize);
    for (let block = 0; block < blocks; block += 1) {
      if (random() < share) bytes.set(this.payload(blockSize), block * blockSize);
    }
    return bytes;
  }

  /** A stream begins anew, or goes on, over these images. @param length how many records it has, of an earlier time */
  begin(images: Images, length = 0): void {
    this.cut(0);
    this.#initial = images;
    while (this.length < length) {
      this.#records.push(EARLIER);
      if (this.length % SNAPSHOT_EVERY === 0) this.#snapshots.push(images);
    }
    this.#now = copyOf(images);
  }

  /** The journal published a record of the source's stream. */
  published(journal: Journal, position: number, sequence: number): void {
    const header = this.#header.read(journal.memory.view, journal.address(position));
    if (sequence !== this.length + 1) this.#violation(`record ${sequence} is published behind ${this.length}`);
    const { type, volume } = header;
    const before = this.#records[sequence - 2]?.clock ?? 0;
    const within = type === TYPE_WRITE && header.scope !== sequence ? this.#records[header.scope - 1]!.clock : null;
    if (within !== null ? header.clock !== within : header.clock < before)
      this.#violation(`record ${sequence} has stamp ${header.clock}, its scope ${within}, ${before} came before it`);
    const shift = Math.log2(this.#volumes[volume - 1]?.blockSize ?? UNIT) - UNIT_SHIFT;
    const record: HistoryRecord = {
      type,
      staged: (header.flags & FLAG_STAGED) !== 0,
      commits: type === TYPE_COMMIT ? header.blockCount : 0,
      volume,
      clock: header.clock,
      unit: header.lba << shift,
      units: header.blockCount << shift,
      tags: null,
    };
    if (type === TYPE_WRITE) {
      const at = journal.address(position);
      if (journal.memory.view.getUint8(at + AT_BLOCK_SHIFT) !== shift + UNIT_SHIFT) this.#violation('block shift');
      record.tags = this.tagsOf(journal.memory.bytes, at + header.payloadAt, record.units);
      // a partial write repeats its neighbours' tags
      for (const tag of record.tags) if (tag !== 0 && this.#tagSequence[tag] === 0) this.#tagSequence[tag] = sequence;
    }
    this.#records.push(record);
    this.#show(this.#now, sequence);
    if (this.length % SNAPSHOT_EVERY === 0) this.#snapshots.push(copyOf(this.#now));
  }

  /** What is behind `sequence` was lost, and will be written anew. */
  cut(sequence: number): void {
    this.#records.length = sequence;
    this.#snapshots.length = Math.min(this.#snapshots.length, Math.floor(sequence / SNAPSHOT_EVERY));
    const at = this.#tagSequence;
    for (let tag = 0; tag < this.#nextTag; tag += 1) if (at[tag]! > sequence) at[tag] = 0;
    this.#now = this.imageAt(sequence);
  }

  /** 0: no record wrote it. */
  sequenceOf(tag: number): number {
    return this.#tagSequence[tag] ?? 0;
  }

  /** For a complaint. */
  describe(tag: number): string {
    return `${tag} (of record ${this.sequenceOf(tag) || '?'})`;
  }

  /** Every unit bears one tag, in all its words. */
  tagsOf(bytes: Uint8Array, at: number, units: number): Uint32Array {
    const copy = at % 4 === 0 ? bytes : bytes.slice(at, at + units * UNIT);
    const from = copy === bytes ? at : 0;
    const words = new Uint32Array(copy.buffer, copy.byteOffset + from, (units * UNIT) / 4);
    const tags = new Uint32Array(units);
    for (let unit = 0; unit < units; unit += 1) {
      const tag = words[unit * UNIT_WORDS]!;
      for (let word = 1; word < UNIT_WORDS; word += 1) {
        const other = words[unit * UNIT_WORDS + word]!;
        if (other !== tag) this.#violation(`a unit is torn: ${tag} and ${other} at word ${word}`);
      }
      tags[unit] = tag;
    }
    return tags;
  }

  /** Whether the bytes are units of these tags, to the last word. */
  areTagged(bytes: Uint8Array, tags: Uint32Array): boolean {
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    let word = 0;
    for (const tag of tags) {
      for (const end = word + UNIT_WORDS; word < end; word += 1) if (words[word] !== tag) return false;
    }
    return word === words.length;
  }

  /** All volumes as the first `sequence` records make them. */
  imageAt(sequence: number): Images {
    const snapshot = Math.floor(sequence / SNAPSHOT_EVERY);
    const images = copyOf(snapshot > 0 ? this.#snapshots[snapshot - 1]! : this.#initial);
    for (let at = snapshot * SNAPSHOT_EVERY; at < sequence; at += 1) this.#show(images, at + 1);
    return images;
  }

  /** What a record makes of the images. */
  #show(images: Images, sequence: number): void {
    const record = this.#records[sequence - 1]!;
    for (let at = sequence - 1 - record.commits; at < sequence - 1; at += 1) {
      if (!this.#records[at]!.staged) this.#violation(`COMMIT ${sequence} is not behind all that it commits`);
      put(images, this.#records[at]!);
    }
    if (!record.staged) put(images, record);
  }

  /** Units of a volume as they are now. */
  unitsNow(volume: number, unit: number, units: number): Uint32Array {
    return this.#now.get(volume)!.slice(unit, unit + units);
  }

  /** Was the unit given this tag by a record behind `sequence`? */
  wroteSince(sequence: number, volume: number, unit: number, tag: number): boolean {
    for (let at = sequence; at < this.length; at += 1) {
      const record = this.#records[at]!;
      if (record.volume !== volume || unit < record.unit || unit >= record.unit + record.units) continue;
      if (
        record.type === TYPE_WRITE ? record.tags![unit - record.unit] === tag : record.type !== TYPE_FLUSH && tag === 0
      )
        return true;
    }
    return false;
  }
}

function copyOf(images: Images): Images {
  return new Map([...images].map(([volume, tags]) => [volume, tags.slice()]));
}

function put(images: Images, { type, volume, unit, units, tags }: HistoryRecord): void {
  if (type === TYPE_WRITE) images.get(volume)!.set(tags!, unit);
  else if (type === TYPE_ZERO || type === TYPE_TRIM) images.get(volume)!.fill(0, unit, unit + units);
}
