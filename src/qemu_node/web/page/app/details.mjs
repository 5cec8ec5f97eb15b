// What is known of a VM, in lists. All of it is text: a guest or a job has written much of it.
import { html, useState } from './html.mjs';
import { get, vmPath } from './api.mjs';
import { uptime } from './fleet.mjs';
import { bytes, duration, memoryShares, moment } from './format.mjs';
import { Copy } from './copy.mjs';
import { pathOf, samplesOf } from './history.mjs';
import { Bar, cpuShare, cpuText, Notice, systemName } from './parts.mjs';

function List({ rows }) {
  const filled = rows.filter(([, value]) => value !== '' && value != null && value !== false);
  return html`<dl class="facts-list">${filled.map(([name, value, kind]) => html`<dt key=${name}>${name}</dt><dd class=${kind ?? ''}>${value}${kind === 'mono' ? html`<${Copy} text=${value} of=${name} />` : null}</dd>`)}</dl>`;
}

/** CPU and memory over the last minutes. What it says is in the text beside it, too. */
function Lately({ vm }) {
  const samples = samplesOf(vm.vm_id);
  const now = performance.now() / 1000;
  if (samples.length < 2) return null;
  const minutes = Math.max(1, Math.round((now - samples[0].at) / 60));
  return html`<figure class="lately"><svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">
      <path class="memory" d=${pathOf(samples, 'used', vm.memory.max_bytes || vm.memory.plugged_bytes, now)} /><path class="cpu" d=${pathOf(samples, 'cpu', 100 * (vm.vcpus || 1), now)} /></svg>
    <figcaption><i class="cpu"></i>CPU <i class="memory"></i>memory <span class="spacer"></span>last ${minutes} min</figcaption></figure>`;
}

function Usage({ vm }) {
  const { memory } = vm;
  const { used, plugged } = memoryShares(memory);
  const running = uptime(vm);
  return html`<section class="panel"><h2>Now</h2>
    <div class="meters"><span>CPU</span><${Bar} value=${cpuShare(vm)} kind="cpu" /><span class="number">${cpuText(vm)} of ${vm.vcpus} vCPU</span>
    <span>Memory</span><${Bar} value=${used} outer=${plugged} /><span class="number">${memory.used_bytes == null ? '' : `${bytes(memory.used_bytes)} of `}${bytes(memory.plugged_bytes)}</span></div>
    <${Lately} vm=${vm} />
    <${List} rows=${[
    ['Uptime', running == null ? '' : duration(running)],
    ['Memory range', memory.min_bytes === memory.max_bytes ? '' : `${bytes(memory.min_bytes)} to ${bytes(memory.max_bytes)}`],
    ['On the node (Pss)', memory.pss_bytes == null ? '' : bytes(memory.pss_bytes)],
    ['Merged by KSM', memory.merged_bytes ? bytes(memory.merged_bytes) : ''],
    ['Guest agent', vm.end ? '' : vm.agent_age_s == null ? 'no answer yet' : `answered ${duration(vm.agent_age_s)} ago`],
    ['Looking at it', vm.viewers || ''],
  ]} /></section>`;
}

function nicWords(nic) {
  const kind = nic.mode === 'vlan' ? `VLAN ${nic.vlan ?? '–'}${nic.trunk?.length ? `, trunk ${nic.trunk.join(', ')}` : ''}` : nic.mode;
  return [kind, nic.isolated && 'isolated', nic.strict && 'strict', nic.mtu && `MTU ${nic.mtu}`, nic.rate_mbit && `${nic.rate_mbit} Mbit/s`].filter(Boolean).join(', ');
}

function Network({ vm, details }) {
  const drops = Object.entries(vm.drops ?? {});
  return html`<section class="panel"><h2>Network</h2>
    <${List} rows=${[
    ['Host name', vm.host_name],
    ...(vm.addresses ?? []).map((address, n) => [n ? `Address ${n + 1}` : 'Address', address, 'mono']),
    ...(details?.nics ?? []).flatMap((nic, n) => [[`NIC ${n}`, nicWords(nic)], [`MAC ${n}`, nic.mac, 'mono'], ...(nic.forwards ?? []).map((forward) => ['Forward', forward, 'mono'])]),
    ...drops.map(([reason, count]) => [`Dropped: ${reason}`, String(count)]),
  ]} /></section>`;
}

const QUESTIONS = { osinfo: 'System', filesystems: 'File systems', users: 'Users', load: 'Load', interfaces: 'Interfaces' };

/** Return an answer of the guest's agent as rows. */
function rowsOf(answer, prefix = '') {
  if (Array.isArray(answer)) return answer.flatMap((item, n) => rowsOf(item, `${prefix}${n + 1} `));
  if (answer && typeof answer === 'object') {
    return Object.entries(answer).flatMap(([name, value]) => (value && typeof value === 'object' ? rowsOf(value, prefix) : [[prefix + name.replaceAll('_', ' '), String(value ?? '')]]));
  }
  return [[prefix || 'value', String(answer)]];
}

function Guest({ vm }) {
  const [answer, setAnswer] = useState(null);
  const [error, setError] = useState(null);
  const [asked, setAsked] = useState('');
  async function ask(name) {
    setAsked(name);
    setError(null);
    try {
      setAnswer(await get(vmPath(vm.vm_id, `/agent/${name}`)));
    } catch (problem) {
      setAnswer(null);
      setError(problem);
    }
  }
  return html`<section class="panel"><h2>Ask the guest</h2>
    <div class="actions">${Object.entries(QUESTIONS).map(([name, words]) => html`<button type="button" key=${name} aria-pressed=${asked === name} onClick=${() => ask(name)}>${words}</button>`)}</div>
    <${Notice} error=${error} />${answer ? html`<${List} rows=${rowsOf(answer).slice(0, 100)} />` : null}</section>`;
}

export function Details({ vm, details, may }) {
  const qemu = details?.qemu;
  return html`
    ${vm.end ? html`<section class="panel"><h2>End</h2><${List} rows=${[
    ['Why', vm.end.reason], ['When', moment(vm.end.at)], ['Exit code', vm.end.exit_code == null ? '' : String(vm.end.exit_code)]]} /></section>` : null}
    ${vm.end ? null : html`<${Usage} vm=${vm} />`}
    ${vm.host_name || vm.addresses?.length || details?.nics?.length ? html`<${Network} vm=${vm} details=${details} />` : null}
    <section class="panel"><h2>VM</h2><${List} rows=${[
    ['VM', vm.vm_id, 'mono'], ['Allocation', vm.alloc_id, 'mono'], ['Task', vm.task], ['Node', vm.node], ['Created', moment(vm.created_at)],
    ['System', systemName(vm)], ['Image', vm.image], ['Firmware', details?.firmware], ['UUID', details?.uuid, 'mono'],
    ['QEMU', qemu ? [qemu.version, qemu.accelerator].filter(Boolean).join(', ') : ''], ['Process', qemu ? String(qemu.pid) : '', 'number'],
    ['Memory merging', details?.merge ? 'on' : ''], ['Watchdog', details?.watchdog ? 'on' : ''], ['Problem', qemu?.problem]]} /></section>
    ${may('control') && !vm.end ? html`<${Guest} vm=${vm} />` : null}`;
}
