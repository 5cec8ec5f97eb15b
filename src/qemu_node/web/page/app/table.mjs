// All VMs as a dense table, for hundreds of them.
import { html, Pure, useSignal } from './html.mjs';
import { title } from './choose.mjs';
import { uptime } from './fleet.mjs';
import { bytes, duration, memoryShares } from './format.mjs';
import { Icon } from './icons.mjs';
import { Bar, cpuShare, cpuText, State, systemName } from './parts.mjs';
import { vmHref } from './place.mjs';
import { sort } from './settings.mjs';

const COLUMNS = [
  ['job', 'VM'], ['', 'Group'], ['', 'Namespace'], ['state', 'State'], ['cpu', 'CPU'], ['memory', 'Memory'],
  ['uptime', 'Uptime'], ['address', 'Address'], ['', 'System'], ['', 'VLAN'], ['', 'Viewers'],
];

class Row extends Pure {
  render({ vm }) {
    const { used, plugged } = memoryShares(vm.memory);
    const running = uptime(vm);
    return html`<tr class=${vm.end ? 'is-over' : ''}>
      <th scope="row"><a href=${vmHref(vm.vm_id)}>${title(vm)}</a></th>
      <td>${vm.group}</td>
      <td>${vm.namespace}</td>
      <td><${State} vm=${vm} />${vm.end ? html`<small title=${vm.end.reason}>${vm.end.reason}</small>` : null}</td>
      <td class="number"><span class="cell"><${Bar} value=${cpuShare(vm)} kind="cpu" />${cpuText(vm)}</span></td>
      <td class="number"><span class="cell"><${Bar} value=${used} outer=${plugged} />${bytes(vm.memory.used_bytes ?? vm.memory.plugged_bytes)}</span></td>
      <td class="number">${running == null ? '–' : duration(running)}</td>
      <td class="mono">${vm.addresses?.[0] ?? '–'}</td>
      <td>${systemName(vm)}</td>
      <td class="number">${vm.vlans?.join(', ') ?? ''}</td>
      <td class="number">${vm.viewers || ''}</td>
    </tr>`;
  }
}

export function Table({ shown, minute }) {
  const by = useSignal(sort);
  return html`<div class="table" role="region" aria-label="Virtual machines" tabindex="0"><table>
    <thead><tr>${COLUMNS.map(([key, name]) => html`<th scope="col" aria-sort=${key && key === by ? 'ascending' : null}>
      ${key ? html`<button type="button" onClick=${() => { sort.value = key; }}>${name}${key === by ? html`<${Icon} name="down" />` : null}</button>` : name}
    </th>`)}</tr></thead>
    <tbody>${shown.map((vm) => html`<${Row} key=${vm.vm_id} vm=${vm} minute=${minute} />`)}</tbody>
  </table></div>`;
}
