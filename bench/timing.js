/**
 * Functions of this thread, timed in turn, so that a noisy machine disturbs all of them alike; and by CPU time, so that it
 * disturbs them little. Every function is warmed up first: WebAssembly starts in quick code, and V8 replaces it in the
 * background when a function has proved busy, on a loaded machine late.
 */
const WARM_UP_MS = 100;
const SAMPLE_MS = 20;

/** CPU time of this process, ms: nothing else runs in it meanwhile. */
function cpuMs() {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** ms of one of `count` runs. */
function timeOf(run, count) {
  const begun = cpuMs();
  for (let i = 0; i < count; i += 1) run();
  return (cpuMs() - begun) / count;
}

/** How many runs make a sample. */
function warmUp(run) {
  for (let count = 1, begun = cpuMs(); ; count *= 2) {
    const ms = timeOf(run, count) * count;
    if (ms >= SAMPLE_MS && cpuMs() - begun >= WARM_UP_MS) return Math.max(1, Math.round((count * SAMPLE_MS) / ms));
  }
}

/**
 * @param cases [{ run }], `run` does it once; or [{ sample }], which gives a value of its own, in the same unit
 * @param toValue (ms of one run, case) -> value
 * @returns for every case the values, one a round
 */
export function timeInTurn(cases, rounds, toValue) {
  const counts = cases.map(({ run }) => run && warmUp(run));
  const values = cases.map(() => []);
  for (let round = 0; round < rounds; round += 1) {
    for (const [i, { run, sample, ...each }] of cases.entries()) {
      run?.(); // what the case before it left in the caches is not this one's to pay for
      values[i].push(sample === undefined ? toValue(timeOf(run, counts[i]), each) : sample());
    }
  }
  return values;
}
