// The keys of this page.
import { html } from './html.mjs';
import { Dialog } from './dialog.mjs';

const ROWS = [
  ['/', 'search'],
  ['← ↑ → ↓', 'from card to card; Home and End: the first and the last'],
  ['Enter', 'open the VM'],
  ['Ctrl + Alt + Shift', 'leave a screen or terminal, which take all other keys'],
  ['Ctrl + Shift + F', 'search the terminal'],
  ['?', 'this list'],
];

export function Help({ onClose }) {
  return html`<${Dialog} title="Keys" onClose=${onClose}>
    <dl class="keys">${ROWS.map(([keys, words]) => html`<dt key=${keys}>${keys.split(' + ').map((key, n) => html`${n ? ' + ' : ''}<kbd>${key}</kbd>`)}</dt><dd>${words}</dd>`)}</dl>
    <div class="buttons"><button type="button" autofocus onClick=${onClose}>Close</button></div>
  </${Dialog}>`;
}
