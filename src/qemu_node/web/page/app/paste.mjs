// Text as keystrokes: asked, sent by the daemon, followed, aborted.
import { html, useEffect, useRef, useSignal, useState } from './html.mjs';
import { get, post, send, vmPath } from './api.mjs';
import { Dialog, say } from './dialog.mjs';
import { Notice } from './parts.mjs';
import { layout } from './settings.mjs';

const MAX_BYTES = 8192;
const LOOK_MS = 250;

export function PasteDialog({ vm, onClose }) {
  const [text, setText] = useState('');
  const [paste, setPaste] = useState(null);
  const [error, setError] = useState(null);
  const [layouts, setLayouts] = useState([{ name: 'us', title: 'English (US)' }]);
  const chosen = useSignal(layout);
  const isHere = useRef(true);
  const size = new TextEncoder().encode(text).length;
  useEffect(() => {
    get('/keyboard').then((keyboard) => setLayouts(keyboard.layouts), () => {});
    return () => { isHere.current = false; };
  }, []);
  async function start(event) {
    event.preventDefault();
    setError(null);
    try {
      await follow(await post(vmPath(vm.vm_id, '/paste'), { text, layout: chosen }));
    } catch (problem) {
      if (isHere.current) { setError(problem); setPaste(null); }
    }
  }
  async function follow(begun) {
    let now = begun;
    while (isHere.current && now.state === 'typing') {
      setPaste(now);
      await new Promise((resolve) => { setTimeout(resolve, LOOK_MS); });
      now = await get(vmPath(vm.vm_id, `/paste/${encodeURIComponent(begun.id)}`));
    }
    if (!isHere.current) return;
    if (now.state === 'done') {
      say(`${now.characters} characters were typed.`);
      onClose();
    } else {
      setPaste(null);
      setError({ message: `${now.typed} of ${now.characters} characters were typed.`, hint: now.message || 'The paste was aborted.' });
    }
  }
  async function abort() {
    try {
      await send('DELETE', vmPath(vm.vm_id, `/paste/${encodeURIComponent(paste.id)}`));
    } catch (problem) {
      setError(problem);
    }
  }
  return html`<${Dialog} title="Paste as keys" onClose=${onClose}>
    <form onSubmit=${start}>
      <label for="paste-text">The text is typed into the guest, key by key. The guest sees no clipboard.</label>
      <textarea id="paste-text" rows="7" autofocus spellcheck="false" disabled=${Boolean(paste)} value=${text} onInput=${(event) => setText(event.currentTarget.value)}></textarea>
      <label class="field">The guest's keyboard <select value=${chosen} disabled=${Boolean(paste)} onChange=${(event) => { layout.value = event.currentTarget.value; }}>
        ${layouts.map(({ name, title }) => html`<option key=${name} value=${name}>${title}</option>`)}
      </select></label>
      ${paste ? html`<progress max=${paste.characters} value=${paste.typed} aria-label="Progress"></progress><p class="number" role="status">${paste.typed} of ${paste.characters} characters</p>` : null}
      ${size > MAX_BYTES ? html`<${Notice} error=${{ message: `At most ${MAX_BYTES} bytes at a time; this has ${size}.` }} />` : null}
      <${Notice} error=${error} />
      <div class="buttons">
        ${paste ? html`<button type="button" class="danger" onClick=${abort}>Abort</button>` : null}
        <button type="button" onClick=${onClose}>${paste ? 'Hide' : 'Cancel'}</button>
        <button class="primary" disabled=${Boolean(paste) || !text || size > MAX_BYTES}>Type it</button>
      </div>
    </form>
  </${Dialog}>`;
}
