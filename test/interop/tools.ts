/** Foreign programs that interop tests run. */
import { type SpawnOptions, spawn } from 'node:child_process';
import { accessSync, constants, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';

const SYSTEM_DIRECTORIES = ['/usr/sbin', '/sbin', '/usr/local/sbin'];

function isInstalled(tool: string): boolean {
  const directories = [...(process.env.PATH ?? '').split(delimiter), ...SYSTEM_DIRECTORIES];
  return directories.some((directory) => {
    try {
      accessSync(join(directory, tool), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/**
 * For `test.skipIf(!requireTools([...]))`: says on stderr what is missing.
 *
 * @throws Error where CI is set: there, a skipped test would be a hole nobody sees
 */
export function requireTools(tools: readonly string[]): boolean {
  const missing = tools.filter((tool) => !isInstalled(tool));
  if (missing.length === 0) return true;
  const message = `interop tests need ${missing.join(', ')}, which ${missing.length === 1 ? 'is' : 'are'} not installed`;
  if (process.env.CI) throw new Error(message);
  process.stderr.write(`skipped: ${message}\n`);
  return false;
}

/** Loop devices and mounts need root and a kernel that gives them, which a container's may not. */
export function canUseLoopDevices(): boolean {
  if (process.getuid?.() === 0 && existsSync('/dev/loop-control') && requireTools(['losetup'])) return true;
  process.stderr.write('skipped: tests on loop devices need root and /dev/loop-control\n');
  return false;
}

/** File systems of their own in memory need root that may mount. */
export async function canMount(): Promise<boolean> {
  const folder = mkdtempSync(join(tmpdir(), 'forelock-mount-'));
  try {
    const mounted = await runTool('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'forelock-test', folder]);
    if (mounted.status === 0) await runToolOk('umount', [folder]);
    else process.stderr.write('no full disks: mounting needs root\n');
    return mounted.status === 0;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export interface ToolResult {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** Runs a tool to its end without blocking this process, which may be what it talks to. */
export function runTool(tool: string, args: readonly string[], options: SpawnOptions = {}): Promise<ToolResult> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, PATH: [process.env.PATH, ...SYSTEM_DIRECTORIES].join(delimiter) };
    const child = spawn(tool, args, { stdio: ['ignore', 'pipe', 'pipe'], env, timeout: 50_000, ...options });
    let stdout = '';
    let stderr = '';
    child.stdout?.on('data', (chunk) => {
      stdout += chunk;
    });
    child.stderr?.on('data', (chunk) => {
      stderr += chunk;
    });
    child.on('error', reject);
    child.on('close', (status) => resolve({ status, stdout, stderr }));
  });
}

/** The same for what must succeed. @returns its stdout */
export async function runToolOk(tool: string, args: readonly string[], options: SpawnOptions = {}): Promise<string> {
  const result = await runTool(tool, args, options);
  if (result.status !== 0) {
    throw new Error(`${tool} ${args.join(' ')}: exit ${result.status}\n${result.stdout}\n${result.stderr}`);
  }
  return result.stdout;
}
