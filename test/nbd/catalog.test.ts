/** What a gateway's groups offer to front ends. */
import { expect, test } from 'vitest';
import { Catalog } from '../../src/volume/catalog.js';
import type { Group } from '../../src/volume/group.js';

test('a view is offered once there is an image, and where it can be pinned', () => {
  const at = (imageConsistent: boolean, platter: string) => {
    const standby = { role: 'standby', mirror: { imageConsistent }, volumes: new Map() };
    standby.volumes.set(1, { name: 'disk', platter, group: standby });
    const catalog = new Catalog([standby as unknown as Group]);
    return [catalog.views(), catalog.readable()];
  };
  expect(at(true, 'journal')).toEqual([['disk@applied'], ['disk@applied']]);
  expect(at(false, 'journal')).toEqual([[], ['disk@applied']]);
  expect(at(true, 'flat')).toEqual([[], ['disk']]);
});
