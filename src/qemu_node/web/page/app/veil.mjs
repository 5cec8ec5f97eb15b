// What lies over a screen or terminal that is not connected: why, since when, and the last picture.
import { html } from './html.mjs';
import { Picture } from './card.mjs';
import { endWords } from './ending.mjs';
import { moment } from './format.mjs';

export function Veil({ vm, status, onRetry }) {
  if (vm.end) {
    return html`<div class="veil"><${Picture} vm=${vm} label="the last screen" />
      <p role="status"><strong>${vm.end.is_failure ? 'The VM has failed.' : 'The VM has ended.'}</strong> ${endWords(vm.end)}<br />${moment(vm.end.at)}</p>
      <p>If it starts again, this page shows it.</p></div>`;
  }
  const { phase, words } = status;
  if (phase === 'open') {
    return vm.state === 'running' ? null : html`<div class="veil slight"><p role="status">${vm.state.replaceAll('-', ' ')}</p></div>`;
  }
  if (phase === 'connecting') return html`<div class="veil"><p role="status">Connecting …</p></div>`;
  if (phase === 'again') return html`<div class="veil"><p role="status"><strong>The connection was lost.</strong> ${words} It is tried again by itself.</p><button type="button" onClick=${onRetry}>Try now</button></div>`;
  return html`<div class="veil"><p role="status">${words}</p><button type="button" onClick=${onRetry}>Connect again</button></div>`;
}
