// The keys that a phone's keyboard lacks, for screen and terminal. Ctrl and Alt stay down for the next key.
import { html } from './html.mjs';

const KEYS = [
  ['esc', 'Esc'], ['tab', 'Tab'], ['ctrl', 'Ctrl'], ['alt', 'Alt'],
  ['left', '←', 'Left'], ['up', '↑', 'Up'], ['down', '↓', 'Down'], ['right', '→', 'Right'],
];
export const STICKY = ['ctrl', 'alt'];

/** `held` is the set of sticky keys that are down; `press` is told a key's name. */
export function TouchKeys({ held, press, type, disabled }) {
  return html`<div class="touch-keys" role="toolbar" aria-label="Keys for touch">
    <button type="button" disabled=${disabled} onClick=${type}>Type</button>
    ${KEYS.map(([name, sign, words]) => html`<button type="button" key=${name} disabled=${disabled} aria-label=${words ?? null} aria-pressed=${STICKY.includes(name) ? held.has(name) : null}
      onPointerDown=${(event) => event.preventDefault()} onClick=${() => press(name)}>${sign}</button>`)}
  </div>`;
}

/** Return what is held after a key: a sticky one goes down or up, another one lets go of all. Pure. */
export function heldAfter(held, name) {
  if (!STICKY.includes(name)) return new Set();
  const next = new Set(held);
  if (!next.delete(name)) next.add(name);
  return next;
}
