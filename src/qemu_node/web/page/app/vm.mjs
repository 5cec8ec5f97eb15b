// One VM: its screen or terminal, what is known of it, and its buttons.
import { html, useEffect, useSignal, useState } from './html.mjs';
import { get, vmPath } from './api.mjs';
import { title } from './choose.mjs';
import { Details } from './details.mjs';
import { Toast } from './dialog.mjs';
import { beat, isKnown, rights, vms } from './fleet.mjs';
import { Icon } from './icons.mjs';
import { Later } from './later.mjs';
import { Notice, State } from './parts.mjs';
import { place, vmHref } from './place.mjs';
import { Power } from './power.mjs';

const TABS = {
  screen: ['Screen', () => import('./screenview.mjs')],
  terminal: ['Terminal', () => import('./terminalview.mjs')],
  log: ['Log', () => import('./log.mjs')],
  events: ['Events', () => import('./taskevents.mjs')],
};

export default function Vm({ vmId }) {
  const vm = useSignal(vms).get(vmId);
  const known = useSignal(isKnown);
  const allowed = useSignal(rights);
  const { tab } = useSignal(place);
  useSignal(beat);
  const [details, setDetails] = useState(null);
  useEffect(() => {
    get(vmPath(vmId)).then(setDetails, () => {});
  }, [vmId, vm?.created_at, Boolean(vm?.end)]);
  useEffect(() => { if (vm) document.title = `${title(vm)} · ${vm.node}`; }, [vm?.job]);
  if (!vm) {
    return known ? html`<main class="empty-page"><h2>No such VM</h2><p>There is no VM <code>${vmId}</code> on this node that you may see. An ended VM is shown for a day.</p><p><a href="#/">All VMs</a></p></main>`
      : html`<main class="loading" aria-busy="true"><p>Looking for the VM …</p></main>`;
  }
  // The stream's first: they follow a policy that is changed meanwhile.
  const own = allowed[vm.namespace] ?? details?.rights ?? [];
  const may = (right) => own.includes(right);
  const shown = TABS[tab] ? tab : 'screen';
  return html`<main class="vm">
    <div class="vm-head">
      <a class="button quiet" href="#/" aria-label="All VMs"><${Icon} name="back" /></a>
      <h1>${title(vm)}</h1><${State} vm=${vm} />
      <span class="path">${vm.namespace} / ${vm.job} / ${vm.group}</span>
      ${vm.viewers > 1 ? html`<span class="path" role="status"><${Icon} name="eye" /> ${vm.viewers} are looking</span>` : null}
      <span class="spacer"></span>
      ${may('power') && !vm.end ? html`<${Power} vm=${vm} />` : null}
    </div>
    ${vm.stop_error ? html`<${Notice} error=${{ message: `The VM was not stopped: ${vm.stop_error}` }} />` : null}
    <nav class="tabs" aria-label="Parts of this VM">${Object.entries(TABS).map(([key, [name]]) => html`<a key=${key} href=${vmHref(vmId, key)} aria-current=${key === shown ? 'page' : null}>${name}</a>`)}</nav>
    <section class="stage">${may('view') || !own.length ? (own.length ? html`<${Later} key=${shown} load=${TABS[shown][1]} vm=${vm} may=${may} />` : html`<p class="loading">…</p>`) : html`<p class="dim">You may see that this VM is there, but not its screen: that takes <code>read-logs</code> in its namespace.</p>`}</section>
    <aside class="side" aria-label="Details"><${Details} vm=${vm} details=${details} may=${may} /></aside>
    <${Toast} />
  </main>`;
}
