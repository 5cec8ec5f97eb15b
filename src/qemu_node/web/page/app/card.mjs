// One VM as a card: its screen, and what an operator asks first.
import { html, Pure, useEffect, useRef, useState } from './html.mjs';
import { uptime } from './fleet.mjs';
import { bytes, duration, memoryShares, moment } from './format.mjs';
import { Icon } from './icons.mjs';
import { Bar, cpuShare, cpuText, State, systemName } from './parts.mjs';
import { vmHref } from './place.mjs';
import { watch } from './thumbnails.mjs';

export function Picture({ vm, label }) {
  const canvas = useRef(null);
  const watching = useRef(null);
  const [isThere, setThere] = useState(false);
  useEffect(() => {
    watching.current = watch(canvas.current, vm.vm_id, () => setThere(true));
    return () => watching.current.end();
  }, [vm.vm_id]);
  useEffect(() => watching.current.setFinal(Boolean(vm.end)), [vm.end]);
  useEffect(() => watching.current.tell(vm), [vm]);
  return html`<span class="picture">
    <canvas ref=${canvas} width="320" height="200" role=${label ? 'img' : null} aria-label=${label || null} aria-hidden=${label ? null : 'true'} class=${isThere ? '' : 'empty'}></canvas>
    ${isThere && !vm.thumbnail?.endsWith('-blank') ? null : html`<span class="nothing">${isThere ? 'blank screen' : 'no picture'}</span>`}
  </span>`;
}

/** Return the words under a VM's bars. */
function facts(vm) {
  if (vm.end) return `${vm.end.reason} · ${moment(vm.end.at)}`;
  const running = uptime(vm);
  return [systemName(vm), vm.vcpus ? `${vm.vcpus} vCPU` : '', running == null ? '' : `up ${duration(running)}`].filter(Boolean).join(' · ');
}

export class Card extends Pure {
  render({ vm }) {
    const { used, plugged } = memoryShares(vm.memory);
    const address = vm.addresses?.[0] ?? '';
    const more = (vm.addresses?.length ?? 0) - 1;
    return html`<li class=${`card ${vm.end ? 'is-over' : ''}`}>
      <a href=${vmHref(vm.vm_id)}>
        <${Picture} vm=${vm} label="" />
        ${vm.viewers ? html`<span class="viewers" title="people who look at it now"><${Icon} name="eye" />${vm.viewers}</span>` : null}
        <span class="about">
          <span class="name"><b>${vm.job}</b>${vm.index == null ? null : html`<b class="index">[${vm.index}]</b>`}<i class="spacer"></i><${State} vm=${vm} /></span>
          <span class="where"><span class="mono">${address || vm.host_name || 'no address'}</span>${more > 0 ? html`<em>+${more}</em>` : null}<span class="spacer"></span><span class="group">${vm.namespace} / ${vm.group}</span></span>
          ${vm.end ? null : html`<span class="meters">
            <span>CPU</span><${Bar} value=${cpuShare(vm)} kind="cpu" /><span class="number">${cpuText(vm)}</span>
            <span>Mem</span><${Bar} value=${used} outer=${plugged} /><span class="number">${vm.memory.used_bytes == null ? bytes(vm.memory.plugged_bytes) : html`${bytes(vm.memory.used_bytes)}<span class="wide"> / ${bytes(vm.memory.plugged_bytes)}</span>`}</span>
          </span>`}
          <span class=${vm.end?.is_failure ? 'facts bad' : 'facts'}>${facts(vm)}</span>
        </span>
      </a>
    </li>`;
  }
}
