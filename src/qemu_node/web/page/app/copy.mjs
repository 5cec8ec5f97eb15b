// A button that copies a text: an address, an id.
import { html } from './html.mjs';
import { say } from './dialog.mjs';
import { Icon } from './icons.mjs';

export function Copy({ text, of }) {
  // Browsers give the clipboard to pages by https, and to those of the machine itself.
  if (!navigator.clipboard) return null;
  const copy = () => navigator.clipboard.writeText(text).then(() => say(`${of} copied.`), () => say('The browser does not let this page copy.', true));
  return html`<button type="button" class="copy" aria-label=${`Copy: ${of}`} title="Copy" onClick=${copy}><${Icon} name="copy" /></button>`;
}
