// What has happened to a VM's task, as Nomad knows it.
import { html, useEffect, useState } from './html.mjs';
import { get, vmPath } from './api.mjs';
import { moment } from './format.mjs';
import { Notice } from './parts.mjs';

export default function TaskEvents({ vm }) {
  const [list, setList] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    get(vmPath(vm.vm_id, '/events')).then(setList, setError);
  }, [vm.vm_id, vm.state]);
  if (error) return html`<${Notice} error=${error} />`;
  if (!list) return html`<p class="dim" aria-busy="true">Asking Nomad …</p>`;
  if (!list.events.length) return html`<p class="dim">Nomad knows of no event. Without Nomad there are none.</p>`;
  return html`<div class="panel"><ul class="events">${list.events.map((event, n) => html`<li key=${n}><time datetime=${event.at}>${moment(event.at)}</time><b>${event.kind}</b><span>${event.message}</span></li>`)}</ul></div>`;
}
