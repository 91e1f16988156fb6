/** Where handing work to the pool begins to pay; measured together with the kernels, once. */
export { needs, runPool as run } from './kernels.js';
