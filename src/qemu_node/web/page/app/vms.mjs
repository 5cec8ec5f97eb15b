// The view of all VMs of this node: what is searched and filtered, and the grid or table of what is found.
import { html, useMemo, useSignal } from './html.mjs';
import { choose, counts, SORTS } from './choose.mjs';
import { beat, isKnown, vms } from './fleet.mjs';
import { Grid } from './grid.mjs';
import { Icon } from './icons.mjs';
import { job, look, search, sort, state } from './settings.mjs';
import { Table } from './table.mjs';

function Filters({ all }) {
  const { states, jobs } = useMemo(() => counts(all.values()), [all]);
  const chosen = useSignal(state);
  const ofJob = useSignal(job);
  const by = useSignal(sort);
  const as = useSignal(look);
  return html`<div class="filters">
    <div class="chips" role="group" aria-label="States">
      <button type="button" class="chip" aria-pressed=${chosen === ''} onClick=${() => { state.value = ''; }}>All <b>${all.size}</b></button>
      ${states.map(({ name, count, tone }) => html`<button type="button" key=${name} class=${`chip ${tone}`} aria-pressed=${chosen === name}
        onClick=${() => { state.value = chosen === name ? '' : name; }}><i aria-hidden="true"></i>${name} <b>${count}</b></button>`)}
    </div>
    <span class="spacer"></span>
    <label class="field">Job <select value=${ofJob} onChange=${(event) => { job.value = event.currentTarget.value; }}>
      <option value="">all</option>
      ${jobs.map(([name, count]) => html`<option key=${name} value=${name}>${name.replace(/^default\//, '')} (${count})</option>`)}
    </select></label>
    <label class="field">Order <select value=${by} onChange=${(event) => { sort.value = event.currentTarget.value; }}>
      ${Object.entries(SORTS).map(([key, name]) => html`<option key=${key} value=${key}>${name}</option>`)}
    </select></label>
    <div class="switch" role="group" aria-label="Look">
      <button type="button" aria-pressed=${as === 'grid'} aria-label="Cards" title="Cards" onClick=${() => { look.value = 'grid'; }}><${Icon} name="grid" /></button>
      <button type="button" aria-pressed=${as === 'table'} aria-label="Table" title="Table" onClick=${() => { look.value = 'table'; }}><${Icon} name="table" /></button>
    </div>
  </div>`;
}

function Nothing({ hasAny }) {
  if (hasAny) {
    return html`<div class="empty-page"><h2>No VM matches</h2>
      <p><button type="button" onClick=${() => { search.value = ''; job.value = ''; state.value = ''; }}>Show all VMs</button></p></div>`;
  }
  return html`<div class="empty-page"><h2>No VM on this node</h2>
    <p>A job with a task of driver <code>vm</code> brings one. VMs in namespaces that you may not read are not shown.</p></div>`;
}

export function Vms() {
  const all = useSignal(vms);
  const known = useSignal(isKnown);
  const wanted = { search: useSignal(search), job: useSignal(job), state: useSignal(state), sort: useSignal(sort) };
  const as = useSignal(look);
  const minute = useSignal(beat);
  const shown = useMemo(() => choose(all.values(), wanted), [all, ...Object.values(wanted)]);
  if (!known) return html`<main class="loading" aria-busy="true"><p>Looking for VMs …</p></main>`;
  return html`<main>
    <h1 class="unseen">Virtual machines of this node</h1>
    <${Filters} all=${all} />
    <p class="unseen" role="status">${shown.length} of ${all.size} VMs</p>
    ${shown.length ? html`<${as === 'table' ? Table : Grid} shown=${shown} minute=${minute} />` : html`<${Nothing} hasAny=${all.size > 0} />`}
  </main>`;
}
