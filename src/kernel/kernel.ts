/**
 * The kernels: every pass over a record's bytes, behind one interface, over one shared memory.
 *
 * Two twins implement it: `wasm` (AssemblyScript, assembly/) and `reference` (plain TypeScript, written to be read,
 * independently of the other). `compare` runs both and stops at the first difference. Addresses are byte offsets
 * into the group's memory; sizes are bytes. Bad addresses are our bug and throw RangeError in every twin.
 */
export type KernelName = 'wasm' | 'reference' | 'compare';

export interface Kernel {
  readonly name: KernelName;

  /** XXH3-64, seed 0, of [at, at + size); the digest is written little-endian at `out` (8 bytes, outside the input). */
  xxh3(at: number, size: number, out: number): void;

  /** XXH64, seed 0, of [at, at + size); the digest is written little-endian at `out`. */
  xxh64(at: number, size: number, out: number): void;

  /**
   * Writes a record's header at `at` (see assembly/layout.ts): every field but `check` and the checksums, which are
   * zeroed, as is the padding behind the payload. The payload is not touched.
   *
   * @param blockShift 9..16 when the record carries payload, 0 when it does not
   * @param clock      microseconds, an integer below 2^53, as are lba, sequence, seen and scope
   * @returns the record's size in bytes
   */
  encode(
    at: number,
    type: number,
    flags: number,
    volume: number,
    lba: number,
    blockCount: number,
    blockShift: number,
    sequence: number,
    seen: number,
    clock: number,
    scope: number,
    generation: number,
    session: number,
    site: number,
  ): number;

  /**
   * Seals every record in [at, at + size): block checksums, then the header check, in place.
   * The stretch must hold whole records, as `encode` left them; PAD records must have `size` set by the caller.
   *
   * @returns how many records were sealed
   * @throws RangeError if the stretch is not made of whole records (our bug)
   */
  seal(at: number, size: number): number;

  /**
   * Checks received or read-back records in [at, at + size) in place: layout, header check, every block's checksum.
   * Never reads outside the stretch, whatever its bytes say.
   *
   * @returns bytes of valid records before the first bad one; `size` when all are good
   */
  verify(at: number, size: number): number;

  /**
   * Recovery scan: like `verify`, and writes the u32 offset (from `at`) of every valid record to `table`.
   * Stops at the first record that is bad or not whole, or when `tableCount` offsets are written.
   *
   * @returns how many offsets were written
   */
  scan(at: number, size: number, table: number, tableCount: number): number;

  /** 1 if a whole valid header with its checksums stands at `at` (payload not looked at), else 0. Needs 72 + 8n <= available bytes. */
  checkHeader(at: number, available: number): number;

  /**
   * Checks blocks index .. index + count of the record whose (already checked) header stands at `headerAt`; the
   * blocks' bytes stand from `payloadAt`.
   * @returns how many are good before the first bad one; `count` when all are
   */
  checkBlocks(headerAt: number, payloadAt: number, index: number, count: number): number;

  /** Region table (a bitmap from address `table`): sets regions [first, first + count). */
  lockSet(table: number, first: number, count: number): void;
  /** Clears regions [first, first + count). */
  lockClear(table: number, first: number, count: number): void;
  /** 1 if any of regions [first, first + count) is set, else 0. */
  lockQuery(table: number, first: number, count: number): number;
}
