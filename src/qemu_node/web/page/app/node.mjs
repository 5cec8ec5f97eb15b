// This node: its version, memory, images, and what does not work on it.
import { html, useEffect, useState } from './html.mjs';
import { get } from './api.mjs';
import { bytes, duration } from './format.mjs';
import { Bar, Notice } from './parts.mjs';
import { every } from './poll.mjs';

export default function Node() {
  const [node, setNode] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    const look = () => get('/node').then((answer) => { setNode(answer); setError(null); }, setError);
    return every(10_000, look);
  }, []);
  if (!node) return html`<main class=${error ? '' : 'loading'} aria-busy=${!error}><${Notice} error=${error} /></main>`;
  const used = node.memory ? node.memory.total_bytes - node.memory.available_bytes : 0;
  return html`<main><h1 class="unseen">This node</h1><${Notice} error=${error} />
    ${(node.problems ?? []).map((problem) => html`<${Notice} key=${problem} error=${{ message: problem }} />`)}
    <div class="columns">
      <section class="panel"><h2>${node.name}</h2><dl class="facts-list"><dt>Version</dt><dd>${node.version}</dd><dt>Kernel</dt><dd>${node.kernel}</dd><dt>Nomad</dt><dd>${node.has_nomad ? 'yes' : 'none'}</dd>
        ${Object.entries(node.vms).map(([name, count]) => html`<dt key=${name}>VMs ${name.replaceAll('-', ' ')}</dt><dd class="number">${count}</dd>`)}
        ${(node.others ?? []).map((other) => html`<dt key=${other.vm_id} class="mono">${other.vm_id}</dt><dd>${other.state}</dd>`)}</dl></section>
      ${node.memory ? html`<section class="panel"><h2>Memory</h2><div class="meters"><span>Used</span><${Bar} value=${used / node.memory.total_bytes} /><span class="number">${bytes(used)} of ${bytes(node.memory.total_bytes)}</span></div>
        ${node.ksm ? html`<dl class="facts-list"><dt>KSM</dt><dd>${node.ksm.is_running ? 'on' : 'off'}</dd><dt>Saved</dt><dd class="number">${bytes(node.ksm.merged_bytes)}</dd><dt>Full scans</dt><dd class="number">${node.ksm.full_scans}</dd></dl>` : null}</section>` : null}
    </div>
    <section class="part"><h2>Images</h2>${node.cache ? html`<p class="dim">${node.cache.count} images, ${bytes(node.cache.bytes)}, ${node.cache.in_use} in use; ${duration(node.cache.age_s)} ago</p>` : null}
      ${node.images == null ? html`<p class="dim">The driver has not told of them yet.</p>` : !node.images.length ? html`<p class="dim">There is none yet: the first VM that needs one downloads it.</p>` : html`<div class="table" role="region" aria-label="Images" tabindex="0"><table><thead><tr><th scope="col">Image</th><th scope="col">Size</th><th scope="col">VMs</th><th scope="col">Marks</th><th scope="col">Digest</th></tr></thead>
      <tbody>${node.images.map((image) => html`<tr key=${image.digest}><th scope="row">${image.name}</th><td class="number">${bytes(image.size_bytes)}</td><td class="number">${image.vms}</td><td>${[image.is_pinned && 'pinned', image.is_outdated && 'outdated'].filter(Boolean).join(', ')}</td><td class="mono">${image.digest}</td></tr>`)}</tbody></table></div>`}</section>
  </main>`;
}
