/** Whether a process may have as many files open as its journals may come to have segments. */
import fs from 'node:fs';
import { LINK_SOCKETS_MAX, NBD_CONNECTIONS_MAX, SPARE_SEGMENTS_MAX } from '../limits.js';

/** What counts of a group. */
export interface FilesOfGroup {
  readonly journal: { readonly room: { readonly limit: number }; readonly segmentSize: number };
  /** Its volumes: a flat one has an image and that image's lock. */
  readonly volumes: { readonly size: number };
}

/** Of a group beside segments: its directory, two map files and two superblocks, and the newest segment once more, for synced writes. */
const GROUP_FILES = 8;
/** Of the process: what Node, its threads and the control API have open. */
const PROCESS_FILES = 128;

/** What the system says, the limit that holds now; null where it does not (Linux only, proc(5)). */
export function openFilesAllowed(): number | null {
  try {
    const limit = /^Max open files +(\d+) /m.exec(fs.readFileSync('/proc/self/limits', 'latin1'));
    return limit === null ? null : Number(limit[1]);
  } catch {
    return null;
  }
}

/** @returns what to do about it, in words; null: it may */
export function findFewFiles(groups: readonly FilesOfGroup[], allowed: number | null): string | null {
  let needed = PROCESS_FILES + NBD_CONNECTIONS_MAX + LINK_SOCKETS_MAX;
  for (const { journal, volumes } of groups) {
    needed += Math.ceil(journal.room.limit / journal.segmentSize) + SPARE_SEGMENTS_MAX + GROUP_FILES + 2 * volumes.size;
  }
  if (allowed === null || needed <= allowed) return null;
  return (
    `this process may have ${allowed} files open, and may need ${needed}, one for each segment of a journal among them: ` +
    'writes fail with ENOSPC when it cannot open another. Start it with a higher limit (ulimit -n, or LimitNOFILE= of ' +
    'systemd), or a smaller --journal'
  );
}
