// The VMs of all nodes, as Nomad lists them; each opens in its own node's console, without another login.
import { html, useEffect, useMemo, useSignal, useState } from './html.mjs';
import { get, post } from './api.mjs';
import { say, Toast } from './dialog.mjs';
import { vms } from './fleet.mjs';
import { Notice } from './parts.mjs';
import { vmHref } from './place.mjs';
import { every } from './poll.mjs';
import { session } from './session.mjs';
import { search } from './settings.mjs';

const TONES = { running: 'good', pending: 'busy', failed: 'bad', lost: 'bad', unknown: 'warn', complete: 'off' };
const ORDER = Object.keys(TONES);

/** Return the address of a VM, or of all VMs, in a node's console. What is behind `#` is not sent. Pure. */
export function consoleUrl(console_, { ott = '', allocId = '' } = {}) {
  if (!/^https?:\/\/[^/\s]+$/.test(console_)) return '';
  const to = allocId ? `/alloc/${allocId}` : '/';
  return ott ? `${console_}/#${new URLSearchParams({ ott, to })}` : `${console_}/#${to}`;
}

async function go(node, allocId = '') {
  // Before the wait: a window that opens later is taken for an advertisement.
  const opened = open('about:blank', '_blank');
  try {
    // Without a token of Nomad there is nothing to hand over: the other console asks by itself.
    const { ott } = session.peek()?.auth === 'nomad' ? await post('/handover') : { ott: '' };
    const url = consoleUrl(node.console, { ott, allocId });
    if (!url || !opened) throw new Error(url ? 'The browser opened no window. Allow this page to open windows.' : 'Nomad knows no address of that node.');
    opened.opener = null;
    opened.location.replace(url);
  } catch (error) {
    opened?.close();
    say([error.message, error.hint].filter(Boolean).join(' '), true);
  }
}

/** Return the VMs that have every word of `text` and the state that is asked for. Pure. */
export function chooseVms(all, { text = '', state = '' }) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return all.filter((vm) => (!state || vm.state === state)
    && words.every((word) => `${vm.name} ${vm.namespace} ${vm.job} ${vm.node} ${vm.state} ${vm.alloc_id}`.toLowerCase().includes(word)));
}

/** Return `[state, count]` of each state that there is. Pure. */
export function countStates(all) {
  const counts = new Map();
  for (const { state } of all) counts.set(state, (counts.get(state) ?? 0) + 1);
  return [...counts].sort((a, b) => ORDER.indexOf(a[0]) - ORDER.indexOf(b[0]));
}

function Nodes({ view, busy }) {
  return html`<section class="part"><h2>Nodes</h2><div class="table" role="region" aria-label="Nodes" tabindex="0"><table>
    <thead><tr><th scope="col">Node</th><th scope="col">State</th><th scope="col">Driver</th><th scope="col">Running VMs</th><th scope="col">Console</th></tr></thead>
    <tbody>${view.nodes.map((node) => html`<tr key=${node.id}><th scope="row"><b>${node.name}</b></th>
      <td><span class=${`state ${node.status === 'ready' ? (node.is_eligible ? 'good' : 'warn') : 'bad'}`}><i aria-hidden="true"></i>${node.status}${node.is_eligible ? '' : ', not eligible'}</span></td>
      <td><span class=${`state ${node.is_healthy ? 'good' : 'bad'}`}><i aria-hidden="true"></i>${node.is_healthy ? 'healthy' : 'not healthy'}</span></td>
      <td class="number">${busy.get(node.id) ?? 0}</td>
      <td>${node.console ? html`<button type="button" aria-label=${`Open the console of ${node.name}`} onClick=${() => go(node)}>Open</button>` : '–'}</td></tr>`)}</tbody></table></div></section>`;
}

function Place({ vm, ownId, node }) {
  if (ownId) return html`<a class="button small" href=${vmHref(ownId)} aria-label=${`Open ${vm.name}`}>Open here</a>`;
  if (!node?.console) return '–';
  return html`<button type="button" aria-label=${`Open ${vm.name} on ${vm.node}`} onClick=${() => go(node, vm.alloc_id)}>Open</button>`;
}

export default function Cluster() {
  const [view, setView] = useState(null);
  const [error, setError] = useState(null);
  const [state, setState] = useState('');
  const text = useSignal(search);
  const here = useSignal(vms);
  useEffect(() => {
    const look = () => get('/cluster').then((answer) => { setView(answer); setError(null); }, setError);
    return every(15_000, look);
  }, []);
  const nodes = useMemo(() => new Map((view?.nodes ?? []).map((node) => [node.id, node])), [view]);
  const states = useMemo(() => countStates(view?.vms ?? []), [view]);
  const busy = useMemo(() => {
    const counts = new Map();
    for (const vm of view?.vms ?? []) if (vm.state === 'running') counts.set(vm.node_id, (counts.get(vm.node_id) ?? 0) + 1);
    return counts;
  }, [view]);
  const own = useMemo(() => new Map([...here.values()].map((vm) => [vm.alloc_id, vm.vm_id])), [here]);
  if (!view) return html`<main class=${error ? '' : 'loading'} aria-busy=${!error}>${error ? html`<${Notice} error=${error} />` : html`<p>Asking Nomad …</p>`}</main>`;
  const shown = chooseVms(view.vms, { text, state });
  if (!view.vms.length && !view.nodes.length) {
    return html`<main class="empty-page"><h2>No cluster</h2><p>This console has no Nomad, or your token may list nothing.</p></main>`;
  }
  return html`<main>
    <h1 class="unseen">The cluster</h1><${Notice} error=${error} />
    ${view.nodes.length ? html`<${Nodes} view=${view} busy=${busy} />` : html`<p class="dim">Your token may not read nodes, so their consoles are not known here.</p>`}
    <section class="part"><div class="filters"><h2>VMs</h2>
      <div class="chips" role="group" aria-label="States">
        <button type="button" class="chip" aria-pressed=${state === ''} onClick=${() => setState('')}>All <b>${view.vms.length}</b></button>
        ${states.map(([name, count]) => html`<button type="button" key=${name} class=${`chip ${TONES[name] ?? 'warn'}`} aria-pressed=${state === name}
          onClick=${() => setState(state === name ? '' : name)}><i aria-hidden="true"></i>${name} <b>${count}</b></button>`)}
      </div></div>
      <p class="unseen" role="status">${shown.length} of ${view.vms.length} VMs</p>
      ${shown.length ? html`<div class="table" role="region" aria-label="VMs of the cluster" tabindex="0"><table>
        <thead><tr><th scope="col">VM</th><th scope="col">Namespace</th><th scope="col">Job</th><th scope="col">State</th><th scope="col">Node</th><th scope="col">Console</th></tr></thead>
        <tbody>${shown.map((vm) => html`<tr key=${vm.alloc_id} class=${vm.state === 'complete' ? 'is-over' : ''}><th scope="row"><b>${vm.name}</b></th><td>${vm.namespace}</td><td>${vm.job}</td>
          <td><span class=${`state ${TONES[vm.state] ?? 'warn'}`}><i aria-hidden="true"></i>${vm.state}</span></td><td>${vm.node}</td>
          <td><${Place} vm=${vm} ownId=${own.get(vm.alloc_id)} node=${nodes.get(vm.node_id)} /></td></tr>`)}</tbody></table></div>`
    : html`<p class="dim">No VM matches.</p>`}</section>
    <${Toast} /></main>`;
}
