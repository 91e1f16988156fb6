/**
 * Child process of disk-store.test.ts: takes `open <directory>` and `close`, a line each, and says what came of it.
 */
import type { ForelockError } from '../../src/errors.js';
import { DiskStore } from '../../src/journal/disk-store.js';

process.stdin.setEncoding('utf8');
let store: DiskStore | null = null;
process.stdin.on('data', (text: string) => {
  for (const command of text.trim().split('\n')) {
    const [verb, directory] = command.split(' ');
    if (verb === 'open') {
      try {
        store = new DiskStore(directory);
        console.log('opened');
      } catch (error) {
        const { code, message } = error as ForelockError;
        console.log(`${code} ${message}`);
      }
    } else {
      store?.close();
      store = null;
      console.log('closed');
    }
  }
});
console.log('ready');
