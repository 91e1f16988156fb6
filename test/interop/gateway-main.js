/**
 * One gateway as a process of its own, made of the library: node gateway-main.js DIST OPTIONS, where OPTIONS are
 * GatewayOptions as JSON. It answers the control API on `admin.sock` in the state directory; SIGTERM stops it cleanly.
 */
import { pathToFileURL } from 'node:url';

const [dist, json] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(`${dist}/src/${path}`).href);
const { Gateway } = await load('node/gateway.js');
const { ControlServer } = await load('node/control.js');
const { gatewayStatus } = await load('node/status.js');

const options = JSON.parse(json);

function fail(error) {
  process.stderr.write(`${error.code ?? 'bug'}: ${error.stack ?? error.message}\n`);
  process.exit(error.code === undefined ? 70 : 78);
}
process.on('uncaughtException', fail);
process.on('unhandledRejection', fail);

const gateway = await Gateway.open(options).catch(fail);
const control = {
  status: () => gatewayStatus(gateway),
  verify: (volume, { maps }) => gateway.verify(volume, { maps }),
  lock: (request) => gateway.lock(request),
};
const socket = `${options.state}/admin.sock`;
const server = await ControlServer.open({ control, socket, admin: null }).catch(fail);

process.on('SIGTERM', async () => {
  await server.close();
  await gateway.close();
  process.exit(0);
});
