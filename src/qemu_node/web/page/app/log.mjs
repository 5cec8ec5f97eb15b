// The last lines that a guest has printed.
import { html, useEffect, useRef, useState } from './html.mjs';
import { send, vmPath } from './api.mjs';
import { Notice } from './parts.mjs';
import { plain } from './plain.mjs';
import { every } from './poll.mjs';

const LINES = 500;
const LOOK_MS = 5000;

export default function Log({ vm }) {
  const [text, setText] = useState(null);
  const [error, setError] = useState(null);
  const ref = useRef(null);
  useEffect(() => {
    let isHere = true;
    async function look() {
      try {
        const answer = plain(await (await send('GET', vmPath(vm.vm_id, `/log?lines=${LINES}`))).text());
        if (isHere) { setText(answer); setError(null); }
      } catch (problem) {
        if (isHere) setError(problem);
      }
    }
    const end = vm.end ? () => {} : every(LOOK_MS, look);
    if (vm.end) look();
    return () => { isHere = false; end(); };
  }, [vm.vm_id, Boolean(vm.end)]);
  useEffect(() => {
    // At the end, unless somebody has scrolled up.
    const view = ref.current;
    if (view && view.scrollHeight - view.scrollTop - view.clientHeight < 200) view.scrollTop = view.scrollHeight;
  }, [text]);
  return html`<${Notice} error=${error} />
    <pre class="log" ref=${ref} tabindex="0" role="region" aria-label="Log" aria-busy=${text === null}>${text === '' ? 'The guest has printed nothing.' : text}</pre>`;
}
