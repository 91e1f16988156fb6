/**
 * Where both sites write and the link is down: who may go on alone, and why never both.
 *
 * `--when-split` is one site's own configuration; `whenSplit` in the superblock is what it has agreed on with the other.
 * A site goes on alone only where the two are the same, `prefer:` and its name.
 *
 *     opened with another value than the agreed one   nothing is agreed from then on, durably, before HELLO is said
 *     HELLO of both says the same                     that is agreed, durably with START and READY, before hosts are served
 *
 * So a HELLO tells that its site will not go on alone under another value, and is all the consent that the other needs:
 * for both to be agreed on themselves each would have met a life of the other that began after its own had ended. While the
 * values differ row 1 of mirror/decide.ts keeps the two apart. To change it, both sites are stopped and started with the new
 * value; if in turn, the one that is still preferred serves meanwhile, and when they meet nobody else goes on alone before it
 * has caught up.
 *
 * A superblock that does not tell (of an earlier version) has nothing agreed: the two have to meet once. Who never met
 * another site has nobody to ask. And `only:SITE` is for when the other is gone for good: it asks nobody, and for that
 * meets nobody either.
 */
import type { Superblock } from '../journal/superblock.js';

/** Dual, without a link: nobody serves, or the site of this name alone does; with `only` whatever the other has agreed to. */
export type WhenSplit = 'freeze' | { prefer: string; only?: true };

/** As it is configured, agreed on, and said in HELLO. */
export function splitName(whenSplit: WhenSplit): string {
  if (whenSplit === 'freeze') return whenSplit;
  return `${whenSplit.only ? 'only' : 'prefer'}:${whenSplit.prefer}`;
}

export function isPreferred(superblock: Superblock, whenSplit: WhenSplit): boolean {
  return whenSplit !== 'freeze' && whenSplit.prefer === superblock.site.name;
}

/** Is there nobody who could go on alone under another value? */
export function isAgreed({ whenSplit: agreed, met }: Superblock, whenSplit: WhenSplit): boolean {
  if (whenSplit !== 'freeze' && whenSplit.only) return true;
  return agreed === splitName(whenSplit) || Object.keys(met).length === 0;
}
