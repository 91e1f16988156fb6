/** For our bugs, on in production: a wrong state must stop before it reaches the disk. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** The same where the path is hot and the message has numbers in it: `if (!condition) fail(…)` makes it only then. */
export function fail(message: string): never {
  throw new AssertionError(message);
}

export class AssertionError extends Error {
  constructor(message: string) {
    super(`assertion failed: ${message}`);
    this.name = 'AssertionError';
  }
}
