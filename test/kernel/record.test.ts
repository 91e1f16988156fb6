import { describe, expect, test } from 'vitest';
import * as layout from '../../assembly/layout.js';
import { BARE_TYPES, bench, encode, KERNELS, noise, PAYLOAD_TYPES, TWINS, WRITE } from './harness.js';

describe.each(KERNELS)('records, %s', (name) => {
  test('what encode writes stands where layout.ts says', () => {
    const { memory, kernel, at } = bench(name);
    memory.bytes.fill(0xee, at, at + 8192);
    const size = encode(kernel, at, { flags: layout.FLAG_POINT, blockCount: 2, blockShift: 9 });
    const { view } = memory;
    expect(size).toBe(72 + 16 + 1024 + 8); // 1112 is no multiple of 16
    expect(view.getBigUint64(at + layout.AT_CHECK, true)).toBe(0n);
    expect(view.getUint32(at + layout.AT_SIZE, true)).toBe(size);
    expect(view.getUint8(at + layout.AT_TYPE)).toBe(WRITE.type);
    expect(view.getUint8(at + layout.AT_FLAGS)).toBe(layout.FLAG_POINT);
    expect(view.getUint16(at + layout.AT_VOLUME, true)).toBe(WRITE.volume);
    expect(view.getBigUint64(at + layout.AT_SEQUENCE, true)).toBe(BigInt(WRITE.sequence));
    expect(view.getBigUint64(at + layout.AT_SEEN, true)).toBe(BigInt(WRITE.seen));
    expect(view.getBigUint64(at + layout.AT_CLOCK, true)).toBe(BigInt(WRITE.clock));
    expect(view.getBigUint64(at + layout.AT_LBA, true)).toBe(BigInt(WRITE.lba));
    expect(view.getBigUint64(at + layout.AT_SCOPE, true)).toBe(BigInt(WRITE.scope));
    expect(view.getUint32(at + layout.AT_GENERATION, true)).toBe(WRITE.generation);
    expect(view.getUint32(at + layout.AT_SESSION, true)).toBe(WRITE.session);
    expect(view.getUint32(at + layout.AT_BLOCK_COUNT, true)).toBe(2);
    expect(view.getUint8(at + layout.AT_SITE)).toBe(WRITE.site);
    expect(view.getUint8(at + layout.AT_BLOCK_SHIFT)).toBe(9);
    expect(view.getUint16(at + layout.AT_FORMAT, true)).toBe(layout.RECORD_FORMAT);
    expect(memory.bytes.slice(at + 72, at + 88)).toEqual(new Uint8Array(16));
    expect(memory.bytes.slice(at + 88, at + 1112)).toEqual(new Uint8Array(1024).fill(0xee)); // the payload is not touched
    expect(memory.bytes.slice(at + 1112, at + 1120)).toEqual(new Uint8Array(8));
    expect(memory.bytes[at + 1120]).toBe(0xee);
  });

  test('every type: encode, seal, verify, scan, checkHeader, checkBlocks', () => {
    const { memory, kernel, at, size } = bench(name, 1 << 20);
    noise(memory.bytes.subarray(at, at + (1 << 18)), 8);
    const starts: number[] = [];
    let end = at;
    for (const type of PAYLOAD_TYPES) {
      starts.push(end - at);
      end += encode(kernel, end, { type, blockCount: 3, blockShift: type === layout.TYPE_SEGMENT ? 9 : 12 });
    }
    for (const type of BARE_TYPES) {
      starts.push(end - at);
      const recordSize = encode(kernel, end, { type, blockCount: 2 ** 32 - 1, blockShift: 0 });
      expect(recordSize).toBe(layout.RECORD_SIZE_MIN);
      end += recordSize;
    }
    // The rest of a segment, whatever its bytes.
    const pad = end;
    starts.push(pad - at);
    encode(kernel, pad, { type: layout.TYPE_PAD, blockCount: 0, blockShift: 0 });
    memory.view.setUint32(pad + layout.AT_SIZE, 4096, true);
    end += 4096;

    expect(kernel.verify(at, end - at)).toBe(0); // not sealed yet
    expect(kernel.seal(at, end - at)).toBe(starts.length);
    expect(kernel.verify(at, end - at)).toBe(end - at);
    noise(memory.bytes.subarray(pad + 80, end), 9);
    expect(kernel.verify(at, end - at)).toBe(end - at);

    const table = at + size - 4096;
    expect(kernel.scan(at, end - at, table, 100)).toBe(starts.length);
    expect(starts.map((_, i) => memory.view.getUint32(table + 4 * i, true))).toEqual(starts);
    expect(kernel.scan(at, end - at, table, 2)).toBe(2);
    expect(kernel.scan(at, end - at, table, 0)).toBe(0);
    expect(kernel.scan(at, end - at - 1, table, 100)).toBe(starts.length - 1); // the last one is not whole

    for (const start of starts) expect(kernel.checkHeader(at + start, end - at - start)).toBe(1);
    expect(kernel.checkHeader(at, 72 + 24)).toBe(1);
    expect(kernel.checkHeader(at, 72 + 23)).toBe(0);
    expect(kernel.checkHeader(at + starts[4]!, 72)).toBe(1);
    expect(kernel.checkHeader(at + starts[4]!, 71)).toBe(0);
    const payload = at + 72 + 24;
    expect(kernel.checkBlocks(at, payload, 0, 3)).toBe(3);
    expect(kernel.checkBlocks(at, payload + 4096, 1, 2)).toBe(2);
    memory.bytes[payload + 8192]! ^= 1;
    expect(kernel.checkBlocks(at, payload, 0, 3)).toBe(2);
    expect(kernel.checkBlocks(at, payload, 0, 2)).toBe(2);
    expect(kernel.checkBlocks(at, payload + 8192, 2, 1)).toBe(0);
    expect(kernel.checkBlocks(at, payload, 3, 0)).toBe(0);
    expect(kernel.verify(at, end - at)).toBe(0);
  });

  test('the largest records that may be', () => {
    const { memory, kernel, at } = bench(name);
    for (const [blockCount, blockShift] of [
      [1024, 9],
      [1024, 10],
      [256, 12],
      [16, 16],
    ] as const) {
      const size = encode(kernel, at, { blockCount, blockShift });
      expect(size).toBeLessThanOrEqual(layout.RECORD_SIZE_MAX);
      noise(memory.bytes.subarray(at + 72 + 8 * blockCount, at + 72 + 8 * blockCount + 4096), blockShift);
      expect(kernel.seal(at, size)).toBe(1);
      expect(kernel.verify(at, size)).toBe(size);
    }
    expect(encode(kernel, at, { blockCount: 1024, blockShift: 10 })).toBe(layout.RECORD_SIZE_MAX);
    for (const [blockCount, blockShift] of [
      [0, 12],
      [1025, 9],
      [257, 12],
      [17, 16],
      [1, 8],
      [1, 17],
      [1, 0],
    ] as const) {
      expect(() => encode(kernel, at, { blockCount, blockShift })).toThrow(RangeError);
    }
  });

  test('a stretch that is not made of whole records is not sealed', () => {
    const { kernel, at } = bench(name);
    const size = encode(kernel, at);
    expect(() => kernel.seal(at, size + 16)).toThrow(RangeError);
    expect(() => kernel.seal(at, size - 16)).toThrow(RangeError);
    expect(() => kernel.seal(at + 16, size)).toThrow(RangeError);
    expect(kernel.seal(at, 0)).toBe(0);
    expect(kernel.verify(at, 0)).toBe(0);
  });
});

describe.each(TWINS)('damage, %s', (name) => {
  // One bit of rot that no check covers is data lost: every bit of the record, one by one.
  test('every single flipped bit is found, but those of the padding', () => {
    const { memory, kernel, at } = bench(name, 65536);
    noise(memory.bytes.subarray(at, at + 8192), 3);
    const size = encode(kernel, at, { blockCount: 2, blockShift: 9 });
    const next = encode(kernel, at + size, { type: layout.TYPE_FLUSH, blockCount: 0, blockShift: 0 });
    kernel.seal(at, size + next);
    const payloadEnd = 72 + 16 + 1024;
    expect(size - payloadEnd).toBe(8);
    for (let bit = 0; bit < (size + next) * 8; bit++) {
      const byte = bit >> 3;
      const isPadding = (byte >= payloadEnd && byte < size) || byte >= size + 72;
      memory.bytes[at + byte]! ^= 1 << (bit & 7);
      const good = kernel.verify(at, size + next);
      if (good !== (isPadding ? size + next : byte < size ? 0 : size)) {
        expect.fail(`bit ${bit & 7} of byte ${byte}: ${good} bytes verified`);
      }
      memory.bytes[at + byte]! ^= 1 << (bit & 7);
    }
    expect(kernel.verify(at, size + next)).toBe(size + next);
  });

  test('fields that lie, under a check that is right', () => {
    const { memory, kernel, at, out } = bench(name, 65536);
    const lies: [string, number, (v: DataView) => void][] = [
      ['unknown type 0', 80, (v) => v.setUint8(at + layout.AT_TYPE, 0)],
      ['unknown type 9', 80, (v) => v.setUint8(at + layout.AT_TYPE, 9)],
      ['unknown type 127', 80, (v) => v.setUint8(at + layout.AT_TYPE, 127)],
      ['unknown type 133', 80, (v) => v.setUint8(at + layout.AT_TYPE, 133)],
      ['unknown flag', 80, (v) => v.setUint8(at + layout.AT_FLAGS, 16)],
      ['format 0', 80, (v) => v.setUint16(at + layout.AT_FORMAT, 0, true)],
      ['format 2', 80, (v) => v.setUint16(at + layout.AT_FORMAT, 2, true)],
      ['a block shift without payload', 80, (v) => v.setUint8(at + layout.AT_BLOCK_SHIFT, 9)],
      ['a size too large', 80, (v) => v.setUint32(at + layout.AT_SIZE, 96, true)],
      ['a size of 0', 80, (v) => v.setUint32(at + layout.AT_SIZE, 0, true)],
    ];
    for (const [lie, size, tell] of lies) {
      encode(kernel, at, { type: layout.TYPE_FLUSH, blockCount: 0, blockShift: 0 });
      kernel.seal(at, size);
      expect(kernel.verify(at, 4096)).toBe(size);
      tell(memory.view);
      kernel.xxh3(at + 8, 64, out);
      memory.bytes.copyWithin(at, out, out + 8);
      expect(kernel.verify(at, 4096), lie).toBe(0);
      expect(kernel.checkHeader(at, 4096), lie).toBe(0);
    }
    for (const size of [0, 16, 64, 72, 79, 81, 88, 100, 4097]) {
      encode(kernel, at, { type: layout.TYPE_PAD, blockCount: 0, blockShift: 0 });
      memory.view.setUint32(at + layout.AT_SIZE, size, true);
      kernel.xxh3(at + 8, 64, out);
      memory.bytes.copyWithin(at, out, out + 8);
      expect(kernel.verify(at, 8192), `pad of ${size}`).toBe(0);
    }
  });
});
