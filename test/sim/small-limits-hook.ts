/** A module hook that puts SMALL_LIMITS in the place of the production limits: what vi.mock does in the tests. */
import type { LoadHook } from 'node:module';
import { SMALL_LIMITS } from './small-limits.js';

export const load: LoadHook = (url, context, nextLoad) => {
  if (!url.endsWith('/src/limits.js')) return nextLoad(url, context);
  const small = Object.entries(SMALL_LIMITS).map(([name, value]) => `export const ${name} = ${value};`);
  // with a query it is another module, with production's values; what is exported here by name hides its twin there
  const source = [`export * from '${url}?production';`, ...small].join('\n');
  return { format: 'module', shortCircuit: true, source };
};
