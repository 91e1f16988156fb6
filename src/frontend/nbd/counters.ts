/** What the front end counts, as plain numbers, for status and metrics. Totals only grow; the two gauges say so. */
export class NbdCounters {
  connectionsAccepted = 0;
  /** Turned away at the cap. */
  connectionsRefused = 0;
  /** Ended before an export was chosen, by either side. */
  handshakesUnfinished = 0;
  /** Gauge. */
  connectionsOpen = 0;
  reads = 0;
  writes = 0;
  flushes = 0;
  trims = 0;
  zeroes = 0;
  caches = 0;
  blockStatuses = 0;
  /** Bytes of successful reads and writes. */
  bytesRead = 0;
  bytesWritten = 0;
  /** Error replies of any kind. */
  errors = 0;
  /** Gauge: bytes of reads and writes in flight, and what has come of payloads that are not whole. */
  bytesPending = 0;
}
