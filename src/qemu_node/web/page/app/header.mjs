// The bar above every view: where one is, search, whether the page is live, and the way out.
import { html, useEffect, useRef, useSignal, useState } from './html.mjs';
import { lost, retry, stream } from './events.mjs';
import { rights, vms } from './fleet.mjs';
import { Help } from './help.mjs';
import { Icon } from './icons.mjs';
import { place } from './place.mjs';
import { logOut, session } from './session.mjs';
import { search, theme } from './settings.mjs';

const THEMES = { system: 'dark', dark: 'light', light: 'system' };

function isTyping(target) {
  return Boolean(target.closest?.('input, textarea, select, .screen, .tty, dialog'));
}

function Search() {
  const text = useSignal(search);
  const field = useRef(null);
  useEffect(() => {
    function onKey(event) {
      if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
      event.preventDefault();
      field.current?.focus();
    }
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
  function onKeyDown(event) {
    if (event.key === 'Escape') search.value = '';
    if (event.key === 'ArrowDown' || event.key === 'Enter') {
      event.preventDefault();
      document.querySelector('.card > a, tbody a')?.focus();
    }
  }
  return html`<label class="search"><span class="unseen">Search VMs</span><${Icon} name="search" />
    <input ref=${field} type="search" placeholder="Search: job, address, namespace, state …" value=${text} spellcheck="false"
      onInput=${(event) => { search.value = event.currentTarget.value; }} onKeyDown=${onKeyDown} aria-keyshortcuts="/" /><kbd aria-hidden="true">/</kbd></label>`;
}

function Live() {
  const how = useSignal(stream);
  const why = useSignal(lost);
  const words = { live: 'live', connecting: 'connecting', lost: 'connection lost', off: '' }[how];
  return html`<span class=${`live ${how}`} role="status" title=${why?.message ?? ''}><i aria-hidden="true"></i>${words}</span>`;
}

export function Lost() {
  const how = useSignal(stream);
  const why = useSignal(lost);
  if (how !== 'lost') return null;
  return html`<div class="lost" role="status">The console does not answer${why?.status ? ` (${why.message})` : ''}. What you see is old. It is tried again by itself.
    <button type="button" onClick=${retry}>Try now</button></div>`;
}

function HelpButton() {
  const [isOpen, setOpen] = useState(false);
  useEffect(() => {
    function onKey(event) {
      if (event.key !== '?' || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
      event.preventDefault();
      setOpen(true);
    }
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
  return html`<button type="button" class="quiet wide-only" title="Keys" aria-label="Keys of this page" aria-keyshortcuts="?" onClick=${() => setOpen(true)}><${Icon} name="help" /></button>
    ${isOpen ? html`<${Help} onClose=${() => setOpen(false)} />` : null}`;
}

export function Header() {
  const { page } = useSignal(place);
  const who = useSignal(session);
  const look = useSignal(theme);
  const allowed = useSignal(rights);
  const all = useSignal(vms);
  const node = all.values().next().value?.node || location.hostname;
  const current = (name) => (page === name ? 'page' : null);
  return html`<header class="top">
    <a class="brand" href="#/" title="All VMs of this node"><svg class="logo" viewBox="0 0 32 32" aria-hidden="true"><rect x="2" y="5" width="28" height="19" rx="4" /><path d="M9 11l4 3.500-4 3.500M15.500 18h6.500M11 28h10" /></svg><b>${node}</b></a>
    <nav aria-label="Views">
      <a href="#/" aria-current=${current('vms') ?? (page === 'vm' ? 'true' : null)}>VMs</a>
      <a href="#/cluster" aria-current=${current('cluster')}>Cluster</a>
      ${allowed['']?.includes('node') ? html`<a href="#/node" aria-current=${current('node')}>Node</a>` : null}
    </nav>
    ${page === 'vms' || page === 'cluster' ? html`<${Search} />` : html`<span class="spacer"></span>`}
    <${Live} />
    <${HelpButton} />
    <button type="button" class="quiet" title=${`Colours: ${look}`} aria-label=${`Colours: ${look}. Change`} onClick=${() => { theme.value = THEMES[look] ?? 'system'; }}><${Icon} name="sun" /></button>
    <span class="who" title="logged in as">${who?.name ?? ''}</span>
    <button type="button" class="quiet" title="Log out" aria-label="Log out" onClick=${logOut}><${Icon} name="out" /></button>
  </header>`;
}
