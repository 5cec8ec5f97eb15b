// How a VM ended: why, when, and its last screen, above its last words.
import { html } from './html.mjs';
import { Picture } from './card.mjs';
import { moment } from './format.mjs';

/** Return why a VM has ended, in one line. */
export function endWords({ reason, exit_code: code }) {
  return code == null ? reason : `${reason} (exit code ${code})`;
}

export function Ending({ vm }) {
  return html`<div class=${`ending ${vm.end.is_failure ? 'bad' : ''}`}>
    <${Picture} vm=${vm} label="the last screen" />
    <p role="status"><strong>${vm.end.is_failure ? 'The VM has failed:' : 'The VM has ended:'}</strong> ${endWords(vm.end)}
      <br /><span>${moment(vm.end.at)}. If it starts again, this page shows it.</span></p>
  </div>`;
}
