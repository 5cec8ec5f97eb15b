// A button with a list of actions below it, by mouse, touch and keys.
import { html, useEffect, useRef, useState } from './html.mjs';
import { Icon } from './icons.mjs';

export function Menu({ label, icon, items, disabled }) {
  const [isOpen, setOpen] = useState(false);
  const ref = useRef(null);
  useEffect(() => {
    if (!isOpen) return undefined;
    ref.current.querySelector('li button')?.focus();
    const close = (event) => { if (!ref.current?.contains(event.target)) setOpen(false); };
    addEventListener('pointerdown', close, true);
    return () => removeEventListener('pointerdown', close, true);
  }, [isOpen]);
  function onKeyDown(event) {
    if (!isOpen) return;
    const entries = [...ref.current.querySelectorAll('li button')];
    const at = entries.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      entries.at(to % entries.length)?.focus();
    } else if (event.key === 'Escape' || event.key === 'Tab') {
      setOpen(false);
      ref.current.querySelector('button').focus();
      if (event.key === 'Escape') event.preventDefault();
    }
  }
  return html`<span class="menu" ref=${ref} onKeyDown=${onKeyDown}>
    <button type="button" aria-haspopup="menu" aria-expanded=${isOpen} disabled=${disabled} onClick=${() => setOpen(!isOpen)}><${Icon} name=${icon} />${label}<${Icon} name="down" /></button>
    ${isOpen ? html`<ul role="menu">${items.map(([name, act, kind]) => html`<li role="none" key=${name}>
      <button type="button" role="menuitem" class=${kind ?? ''} onClick=${() => { setOpen(false); act(); }}>${name}</button></li>`)}</ul>` : null}
  </span>`;
}
