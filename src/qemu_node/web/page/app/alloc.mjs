// The VM of an allocation, for links of other nodes, of scripts and of people who know Nomad's id of it.
import { html, useEffect, useSignal } from './html.mjs';
import { title } from './choose.mjs';
import { isKnown, vms } from './fleet.mjs';
import { State } from './parts.mjs';
import { moveTo, vmHref } from './place.mjs';

const LEAST = 8;

/** Return the VMs of an allocation; its id may be short, as Nomad's command prints it. Pure. */
export function vmsOf(allocId, all) {
  if (allocId.length < LEAST) return [];
  return [...all].filter((vm) => vm.alloc_id.startsWith(allocId.toLowerCase()));
}

export default function Alloc({ allocId }) {
  const found = vmsOf(allocId, useSignal(vms).values());
  const known = useSignal(isKnown);
  const only = found.length === 1 ? found[0].vm_id : '';
  useEffect(() => { if (only) moveTo(vmHref(only)); }, [only]);
  if (!known || only) return html`<main class="loading" aria-busy="true"><p>Looking for the VM …</p></main>`;
  if (!found.length) {
    return html`<main class="empty-page"><h2>No such VM</h2><p>No VM of allocation <code>${allocId}</code> is on this node, or you may not see it.</p>
      <p><a class="button" href="#/">All VMs</a></p></main>`;
  }
  return html`<main class="empty-page"><h2>Several VMs</h2><ul>${found.map((vm) => html`<li key=${vm.vm_id}><a href=${vmHref(vm.vm_id)}>${title(vm)}, ${vm.task}</a> <${State} vm=${vm} /></li>`)}</ul></main>`;
}
