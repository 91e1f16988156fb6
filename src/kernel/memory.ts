/**
 * One shared memory per group, laid out once by its owner: ring, lock tables, read arena, scratch.
 * Wasm code allocates nothing; every address it gets was handed out here.
 */
import { MEMORY_BASE, RECORD_KEY_AT } from '../../assembly/layout.js';
import { assert } from '../assert.js';
import { GROUP_MEMORY_MAX } from '../limits.js';

export interface Region {
  readonly at: number;
  readonly size: number;
}

const PAGE = 65536;
const PAGES_MAX = GROUP_MEMORY_MAX / PAGE;

/** From here on the call that `fill` is costs no more than it saves. */
const FILL_SIZE_MIN = 4096;

/**
 * Copies all of `from` to `to[at]`; they must not overlap. Into and out of shared memory `set` goes word by word, and byte by
 * byte if the two are aligned differently, as what follows an NBD header is: four times as long as memcpy at 4 KiB.
 */
export function copyBytes(to: Uint8Array, at: number, from: Uint8Array): void {
  if (from.length < FILL_SIZE_MIN) to.set(from, at);
  else Buffer.prototype.fill.call(to, from, at, at + from.length); // with bytes as many as are asked for, a memcpy
}

export class GroupMemory {
  readonly memory: WebAssembly.Memory;
  /** The whole memory. Views of it may be given to fs, net and ws as they are. */
  readonly bytes: Uint8Array;
  readonly words: Int32Array;
  readonly view: DataView;
  #end = MEMORY_BASE;

  /** @param size bytes to provide for; untouched pages cost nothing */
  constructor(size: number) {
    const pages = Math.ceil((MEMORY_BASE + size) / PAGE);
    assert(pages <= PAGES_MAX, `a group's memory is at most 4 GiB, ${size} bytes asked`);
    // initial = maximum: memory.grow would hand out a new buffer and leave every view behind
    this.memory = new WebAssembly.Memory({ initial: Math.max(2, pages), maximum: PAGES_MAX, shared: true });
    const buffer = this.memory.buffer;
    this.bytes = new Uint8Array(buffer);
    this.words = new Int32Array(buffer);
    this.view = new DataView(buffer);
  }

  /** @param key of the group, 16 hexadecimal digits: from here on every kernel over this memory seals and checks with it */
  useRecordKey(key: string): void {
    this.view.setBigUint64(RECORD_KEY_AT, BigInt(`0x${key}`), true);
  }

  /** Hands out `size` bytes, zeroed, aligned to 64. There is no giving back: layout happens once. */
  take(size: number): Region {
    const at = Math.ceil(this.#end / 64) * 64;
    assert(at + size <= this.bytes.length, `group memory exhausted: ${at + size} > ${this.bytes.length}`);
    this.#end = at + size;
    return { at, size };
  }
}
