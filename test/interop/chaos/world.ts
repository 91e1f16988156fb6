/**
 * One chaos world: two gateways as processes, hosts that check, and faults that overlap.
 *
 *     connector -> flip relay -> delay proxy -> listener
 *
 * A round has a phase with faults, in which hosts write, and one without: everything heals, hosts stop, the sites drain.
 * Then it must hold that
 *   - each host's part shows a moment of its history: one that no flush was promised behind, and the last one, unless its
 *     site was killed
 *   - no promised write to the blocks that all hosts share is lost
 *   - both sites' images are equal
 * and, at the end of the faults, that a standby's image is a moment of the history. A gateway that ends by itself fails
 * the world at once.
 */
import { rmSync, statfsSync } from 'node:fs';
import { NbdClient, type NbdError } from '../../../src/frontend/nbd/client.js';
import { BLOCK_SIZE, History, type Load, randomFrom, readImage, untilServing } from '../checking-client.js';
import { SharedBlocks, type SharedLoad } from '../common-blocks.js';
import { DelayProxy } from '../delay-proxy.js';
import { FlipRelay } from '../flip-relay.js';
import { freePort, type GatewayProcess, type Room, StartError, sleep, until, untilEqual } from '../gateway-process.js';
import { runToolOk } from '../tools.js';
import { type Fault, PART, SHARED_BLOCKS, SITES, type Site, SMALL_DISK, VOLUME_SIZE, type WorldPlan } from './plan.js';

const DEPTH = 16;
const FLUSH_EVERY = 61;
const FUA_EVERY = 37;
const SHARED_DEPTH = 4;
const SHARED_FLUSH_EVERY = 17;
const AGAIN_MS = 100;
/** All is well again by then: whatever a gateway took in has its answer. */
const ANSWER_MS_MAX = 40_000;

const LEFT_BEHIND = /^the journal of a begins at \d+, the peer b ends at/;

type Say = (text: string) => void;

export class World {
  readonly #plan: WorldPlan;
  readonly #room: Room;
  readonly #say: Say;
  readonly #at: Record<Site, GatewayProcess>;
  readonly #proxy: DelayProxy;
  readonly #relay: FlipRelay;
  readonly #parts: { site: Site; history: History }[];
  readonly #shared: SharedBlocks;
  /** Sites that this world killed and did not start again yet. */
  readonly #dead = new Set<Site>();
  /** Sites killed in this round. */
  readonly #crashed = new Set<Site>();
  #filler: string | null = null;
  #loading = false;
  #errors = new Map<string, number>();

  private constructor(
    plan: WorldPlan,
    room: Room,
    say: Say,
    at: Record<Site, GatewayProcess>,
    proxy: DelayProxy,
    relay: FlipRelay,
  ) {
    this.#plan = plan;
    this.#room = room;
    this.#say = say;
    this.#at = at;
    this.#proxy = proxy;
    this.#relay = relay;
    this.#parts = this.#hostSites.map((site, index) => ({
      site,
      history: new History(PART, plan.seed + index, index * PART),
    }));
    this.#shared = new SharedBlocks((2 * PART) / BLOCK_SIZE, SHARED_BLOCKS, randomFrom(plan.seed));
  }

  static async open(plan: WorldPlan, room: Room, say: Say): Promise<World> {
    const listener: Site = plan.connector === 'a' ? 'b' : 'a';
    const port = await freePort();
    const target = { host: '127.0.0.1', port };
    const proxy = room.keep(await DelayProxy.start({ target, oneWayMs: plan.oneWayMs }));
    const relay = room.keep(
      await FlipRelay.start({ target: `ws://127.0.0.1:${proxy.port}`, every: 0, seed: plan.seed }),
    );
    const started = new Map<Site, GatewayProcess>();
    for (const site of [listener, plan.connector]) {
      const role = plan.shape === 'dual' ? 'dual' : site === 'a' ? 'primary' : 'standby';
      const state = site === plan.smallDisk ? await smallDisk(room, site) : room.path(site);
      started.set(
        site,
        await room.start({
          ...{ site, state, role, ring: plan.ring, journal: plan.journal, ack: plan.ack, kernel: plan.kernel },
          ...{ speculation: plan.speculation, 'when-peer-away': plan.whenPeerAway },
          ...(role === 'standby' ? {} : { 'on-reject': plan.onReject }),
          ...(site === 'a' ? { volumes: [`vm:${VOLUME_SIZE}`] } : {}),
          ...(site === listener ? { listen: port } : { peer: relay.url }),
        }),
      );
    }
    const at = { a: started.get('a')!, b: started.get('b')! };
    const world = new World(plan, room, say, at, proxy, relay);
    await world.#untilTogether();
    return world;
  }

  async round(number: number, faults: readonly Fault[]): Promise<void> {
    this.#say(`round ${number}: ${faults.map((fault) => JSON.stringify(fault)).join(' ')}`);
    this.#crashed.clear();
    this.#loading = true;
    const hosts = (await Promise.all(this.#hostSites.map((site) => this.#loadSite(site)))).flat();
    for (const host of hosts) host.catch(() => {});
    await Promise.all(faults.map((fault) => this.#suffer(fault)));
    await this.#checkStandby(number);
    await this.#heal();
    this.#loading = false;
    const late = sleep(ANSWER_MS_MAX).then(async () => {
      const statuses = await Promise.all(SITES.map((site) => this.#at[site].status()));
      throw new Error(`round ${number}: hosts are not answered: ${JSON.stringify(statuses)}`);
    });
    late.catch(() => {});
    await Promise.race([Promise.all(hosts), late]);
    await untilEqual(this.#at.a, this.#at.b);
    await this.#check(number);
  }

  /** What happened, for the report. */
  get tally(): string {
    const operations = this.#parts.map(({ history }) => history.length).join(' and ');
    const errors = [...this.#errors].map(([code, count]) => `${count} ${code}`).join(', ');
    return (
      `${operations} operations, ${this.#shared.writes} in shared blocks, ${this.#relay.flips} bits flipped, ` +
      `${this.#relay.connections} links; errors that hosts got: ${errors || 'none'}`
    );
  }

  get #hostSites(): readonly Site[] {
    return this.#plan.shape === 'dual' ? SITES : ['a'];
  }

  // ---- hosts

  /** Begins what the hosts of a site do until the round is over or the site is killed. @returns their ends */
  async #loadSite(site: Site): Promise<Promise<void>[]> {
    const shared = await this.#connect(site);
    const hosts = [
      this.#host(site, shared, () => this.#shared.load(shared, SITES.indexOf(site), SHARED_DEPTH, SHARED_FLUSH_EVERY)),
    ];
    // what `fail` refuses may be done or not: that is no history to have moments of
    if (this.#plan.whenPeerAway !== 'fail') {
      const { history } = this.#parts.find((part) => part.site === site)!;
      const own = await this.#connect(site);
      // on a full disk a write with FUA may be done, and not be durable
      const fuaEvery = this.#plan.smallDisk === null ? FUA_EVERY : Number.POSITIVE_INFINITY;
      hosts.push(this.#host(site, own, () => history.load(own, DEPTH, FLUSH_EVERY, fuaEvery)));
    }
    return hosts;
  }

  async #connect(site: Site): Promise<NbdClient> {
    return NbdClient.connect(await this.#at[site].uri('vm'));
  }

  /** Loads again and again: an error that may be ends one of them. */
  async #host(site: Site, client: NbdClient, load: () => Load | SharedLoad): Promise<void> {
    try {
      while (this.#loading && !this.#crashed.has(site)) {
        const running = load();
        const goesOn = () => Promise.race([running.ended.then(() => false), sleep(AGAIN_MS).then(() => true)]);
        while (this.#loading && (await goesOn()));
        const error = await running.stop();
        if (error === null) continue;
        this.#errors.set(error.code, (this.#errors.get(error.code) ?? 0) + 1);
        if (!this.#crashed.has(site) && !this.#mayFail(error)) throw error;
        await sleep(AGAIN_MS);
      }
    } catch (error) {
      throw new Error(`a host of site ${site}: ${(error as Error).message}`, { cause: error });
    } finally {
      client.destroy();
    }
  }

  #mayFail({ code }: NbdError): boolean {
    if (code === 'ENOSPC') return this.#plan.smallDisk !== null;
    return code === 'EIO' && this.#plan.whenPeerAway === 'fail';
  }

  // ---- faults

  async #suffer(fault: Fault): Promise<void> {
    await sleep(fault.at);
    switch (fault.kind) {
      case 'kill': {
        const sites = fault.sites.filter((site) => !this.#dead.has(site));
        for (const site of sites) {
          this.#mustRun(site);
          this.#dead.add(site);
          this.#crashed.add(site);
        }
        await Promise.all(sites.map((site) => this.#at[site].kill()));
        await sleep(fault.ms);
        await Promise.all(sites.map((site) => this.#revive(site)));
        return;
      }
      case 'stop': {
        const { child } = this.#at[fault.site];
        child.kill('SIGSTOP');
        await sleep(fault.ms);
        child.kill('SIGCONT');
        return;
      }
      case 'cut':
        await this.#proxy.cut();
        await sleep(fault.ms);
        return this.#proxy.open();
      case 'pause':
        await this.#proxy.pause();
        await sleep(fault.ms);
        return this.#proxy.resume();
      case 'flip':
        this.#relay.every = fault.every;
        await sleep(fault.ms);
        this.#relay.every = 0;
        return;
      case 'delay':
        await this.#proxy.delay(fault.oneWayMs);
        await sleep(fault.ms);
        return this.#proxy.delay(this.#plan.oneWayMs);
      case 'lock': {
        const { site, mode, offset, size } = fault;
        const held = await this.#at[site].control
          .lock({ volume: 'vm', mode, offset, size, holdSeconds: null, waitSeconds: 1 })
          .catch(() => null); // dead, or not to be had
        await sleep(fault.ms);
        held?.release();
        return;
      }
      case 'full':
        await this.#fill(fault.left);
        await sleep(fault.ms);
        return this.#clear();
    }
  }

  async #revive(site: Site): Promise<void> {
    try {
      this.#at[site] = await this.#room.again(this.#at[site]);
      this.#dead.delete(site);
    } catch (error) {
      // a state directory on a full disk is not opened: the round's end tries again
      const isFull = error instanceof StartError && /ENOSPC.*make room/.test(error.message);
      if (!isFull || this.#plan.smallDisk !== site) throw error;
      this.#say(`site ${site} does not start on a full disk: ${error.message}`);
    }
  }

  /** Leaves so many bytes on the small disk. */
  async #fill(left: number): Promise<void> {
    if (this.#filler !== null) return;
    const mounted = this.#room.path(`small-${this.#plan.smallDisk}`);
    const { bavail, bsize } = statfsSync(mounted);
    if (bavail * bsize <= left) return;
    this.#filler = `${mounted}/filler`;
    await runToolOk('fallocate', ['-l', `${bavail * bsize - left}`, this.#filler]).catch(() => {
      // a gateway took some of it meanwhile: then there is less, which is as good
    });
  }

  async #clear(): Promise<void> {
    if (this.#filler === null) return;
    await runToolOk('rm', ['-f', this.#filler]);
    this.#filler = null;
  }

  #mustRun(site: Site): void {
    const gateway = this.#at[site];
    if (!gateway.running) throw new Error(`gateway ${site} ended by itself: ${gateway.said}`);
  }

  // ---- without faults

  async #heal(): Promise<void> {
    await this.#clear();
    for (const site of SITES) {
      if (this.#dead.has(site)) await this.#revive(site);
      this.#mustRun(site);
    }
    await this.#untilTogether();
  }

  /** A small journal gives up the order of a standby that is away while its host writes much: a person empties that. */
  async #emptyWhoIsLeftBehind(): Promise<void> {
    let reason = '';
    const isLeftBehind = (): boolean => LEFT_BEHIND.test(reason);
    await until('sites that meet', async () => {
      const { link } = await this.#at.a.status();
      reason = link.state === 'refused' ? link.reason : link.state;
      return link.state === 'streaming' || isLeftBehind();
    }).catch((error: Error) => {
      throw new Error(`${error.message}: site a says ${reason}`);
    });
    if (!isLeftBehind()) return;
    this.#say(`site b is emptied: ${reason}`);
    await this.#at.b.kill();
    rmSync(this.#at.b.options.state, { recursive: true });
    this.#at.b = await this.#room.again(this.#at.b);
  }

  async #untilTogether(): Promise<void> {
    if (this.#plan.shape === 'pair') await this.#emptyWhoIsLeftBehind();
    const { a, b } = this.#at;
    await Promise.all([a.untilStreaming(), b.untilStreaming()]);
    await b.untilConsistent();
    for (const site of this.#hostSites) await untilServing(this.#at[site]);
  }

  /** A standby shows a moment of the history at any time. */
  async #checkStandby(number: number): Promise<void> {
    if (this.#plan.shape !== 'pair' || this.#plan.whenPeerAway === 'fail' || this.#dead.has('b')) return;
    if ((await this.#at.b.status()).consistency !== 'consistent') return;
    const image = await readImage(await this.#at.b.uri('vm@applied'));
    this.#parts[0]!.history.momentOf(image.subarray(0, PART), `round ${number}: the standby, with faults`);
  }

  async #check(number: number): Promise<void> {
    const atB = this.#plan.shape === 'dual' ? 'vm' : 'vm@applied';
    const [a, b] = [await readImage(await this.#at.a.uri('vm')), await readImage(await this.#at.b.uri(atB))];
    for (const { site, history } of this.#parts) {
      const least = this.#crashed.has(site) ? history.promised : history.length;
      const part = a.subarray(history.offset, history.offset + PART);
      history.cutBehind(history.momentOf(part, `round ${number}: what site ${site} wrote`, least));
    }
    this.#shared.check(a, `round ${number}`);
    const differing = Array.from({ length: a.length / BLOCK_SIZE }, (_, lba) => lba).filter((lba) => {
      const [from, to] = [lba * BLOCK_SIZE, (lba + 1) * BLOCK_SIZE];
      return !a.subarray(from, to).equals(b.subarray(from, to));
    });
    if (differing.length > 0) {
      throw new Error(`round ${number}: the sites differ in ${differing.length} blocks, the first is ${differing[0]}`);
    }
  }
}

/** A file system of its own in memory. @returns the state directory on it */
async function smallDisk(room: Room, site: Site): Promise<string> {
  const mounted = room.path(`small-${site}`);
  await runToolOk('mkdir', [mounted]);
  await runToolOk('mount', ['-t', 'tmpfs', '-o', `size=${SMALL_DISK}`, 'forelock-chaos', mounted]);
  room.onClose(() => runToolOk('umount', ['-l', mounted]));
  return `${mounted}/state`;
}
