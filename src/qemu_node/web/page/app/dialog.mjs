// A question that waits for an answer, and short words about what was done.
import { html, signal, useEffect, useRef, useSignal } from './html.mjs';

/** A modal dialog; the browser keeps the focus in it and gives it back. `onClose` also at Escape. */
export function Dialog({ title, onClose, children }) {
  const ref = useRef(null);
  useEffect(() => {
    ref.current.showModal();
  }, []);
  return html`<dialog ref=${ref} aria-label=${title} onClose=${onClose} onKeyDown=${(event) => event.stopPropagation()}>
    <div class="body"><h2>${title}</h2>${children}</div></dialog>`;
}

const said = signal(null);
let timer = 0;

/** Say something for a few seconds. */
export function say(words, isBad = false) {
  clearTimeout(timer);
  said.value = { words, isBad };
  timer = setTimeout(() => { said.value = null; }, isBad ? 9000 : 4500);
}

export function Toast() {
  const shown = useSignal(said);
  const ref = useRef(null);
  // Above all else: also above what fills the whole screen.
  useEffect(() => {
    if (shown) ref.current.showPopover?.();
  }, [shown]);
  return html`<div role="status" aria-live="polite">${shown ? html`<p ref=${ref} popover="manual" class=${`toast ${shown.isBad ? 'bad' : ''}`}>${shown.words}</p>` : null}</div>`;
}

/** Do something, and say what came of it. */
export async function attempt(work, done) {
  try {
    const answer = await work();
    say(answer?.message ?? done);
  } catch (error) {
    say([error.message, error.hint].filter(Boolean).join(' '), true);
  }
}
