// The VMs of all nodes, as Nomad lists them; each opens in its own node's console, without another login.
import { html, useEffect, useMemo, useSignal, useState } from './html.mjs';
import { get, post } from './api.mjs';
import { say, Toast } from './dialog.mjs';
import { vms } from './fleet.mjs';
import { Notice } from './parts.mjs';
import { every } from './poll.mjs';
import { search } from './settings.mjs';

const TONES = { running: 'good', pending: 'busy', failed: 'bad', lost: 'bad', complete: 'off' };

/** Return where a node's console takes somebody over: the secret is in the fragment, which is not sent. */
export function handoverUrl(console_, ott) {
  return /^https?:\/\/[^/\s]+$/.test(console_) ? `${console_}/#ott=${encodeURIComponent(ott)}` : '';
}

async function go(node) {
  // Before the wait: a window that opens later is taken for an advertisement.
  const opened = open('about:blank', '_blank');
  try {
    const { ott } = await post('/handover');
    const url = handoverUrl(node.console, ott);
    if (!url || !opened) throw new Error(url ? 'The browser opened no window.' : 'Nomad knows no address of that node.');
    opened.opener = null;
    opened.location.replace(url);
  } catch (error) {
    opened?.close();
    say(error.message, true);
  }
}

export default function Cluster() {
  const [view, setView] = useState(null);
  const [error, setError] = useState(null);
  const words = useSignal(search).toLowerCase().split(/\s+/).filter(Boolean);
  const here = useSignal(vms);
  useEffect(() => {
    const look = () => get('/cluster').then((answer) => { setView(answer); setError(null); }, setError);
    return every(15_000, look);
  }, []);
  const nodes = useMemo(() => new Map((view?.nodes ?? []).map((node) => [node.id, node])), [view]);
  const own = useMemo(() => new Map([...here.values()].map((vm) => [vm.alloc_id, vm.vm_id])), [here]);
  const shown = (view?.vms ?? []).filter((vm) => words.every((word) => `${vm.name} ${vm.namespace} ${vm.job} ${vm.node} ${vm.state}`.toLowerCase().includes(word)));
  if (!view && !error) return html`<main class="loading" aria-busy="true"><p>Asking Nomad …</p></main>`;
  return html`<main>
    <h1 class="unseen">The cluster</h1><${Notice} error=${error} />
    ${view && !view.vms.length && !view.nodes.length ? html`<div class="empty-page"><h2>No cluster</h2><p>This console has no Nomad, or your token may list nothing.</p></div>` : html`
    <section class="part"><h2>Nodes</h2><div class="table"><table><thead><tr><th>Node</th><th>State</th><th>Driver</th><th>VMs</th><th>Console</th></tr></thead>
      <tbody>${(view?.nodes ?? []).map((node) => html`<tr key=${node.id}><th scope="row">${node.name}</th>
        <td><span class=${`state ${node.status === 'ready' ? 'good' : 'bad'}`}><i></i>${node.status}${node.is_eligible ? '' : ', not eligible'}</span></td>
        <td>${node.is_healthy ? 'healthy' : 'not healthy'}</td><td class="number">${view.vms.filter((vm) => vm.node_id === node.id && vm.state === 'running').length}</td>
        <td>${node.console ? html`<button type="button" onClick=${() => go(node)}>Open</button>` : '–'}</td></tr>`)}</tbody></table></div></section>
    <section class="part"><h2>VMs</h2><div class="table"><table><thead><tr><th>VM</th><th>Namespace</th><th>Job</th><th>State</th><th>Node</th><th>Console</th></tr></thead>
      <tbody>${shown.map((vm) => html`<tr key=${vm.alloc_id}><th scope="row">${vm.name}</th><td>${vm.namespace}</td><td>${vm.job}</td>
        <td><span class=${`state ${TONES[vm.state] ?? 'warn'}`}><i></i>${vm.state}</span></td><td>${vm.node}</td>
        <td>${own.has(vm.alloc_id) ? html`<a href=${`#/vm/${encodeURIComponent(own.get(vm.alloc_id))}`}>here</a>` : nodes.get(vm.node_id)?.console ? html`<button type="button" onClick=${() => go(nodes.get(vm.node_id))}>Open</button>` : '–'}</td></tr>`)}</tbody></table></div></section>`}
    <${Toast} /></main>`;
}
