// The page's beginning: which view is shown.
import { html, render, useEffect, useSignal } from './html.mjs';
import { follow } from './events.mjs';
import { Header, Lost } from './header.mjs';
import { Login } from './login.mjs';
import { Notice } from './parts.mjs';
import { place } from './place.mjs';
import { begin, notice, session } from './session.mjs';
import { Vms } from './vms.mjs';
import { Later } from './later.mjs';

const VIEWS = {
  vm: () => import('./vm.mjs'),
  alloc: () => import('./alloc.mjs'),
  cluster: () => import('./cluster.mjs'),
  node: () => import('./node.mjs'),
};

function View() {
  const { page, vmId, allocId } = useSignal(place);
  useEffect(() => {
    scrollTo(0, 0);
    if (page !== 'vm') document.title = 'Virtual machines';
  }, [page, vmId]);
  return page === 'vms' ? html`<${Vms} />` : html`<${Later} key=${page + vmId + allocId} load=${VIEWS[page]} vmId=${vmId} allocId=${allocId} />`;
}

function Page() {
  const who = useSignal(session);
  const problem = useSignal(notice);
  if (who === undefined) return html`<main class="loading" aria-busy="true"></main>`;
  if (who === null) return html`<${Login} />`;
  return html`<${Header} /><${Lost} /><${Notice} error=${problem}><button type="button" onClick=${() => { notice.value = null; }}>Close</button></${Notice}><${View} />`;
}

render(html`<${Page} />`, document.getElementById('page'));
follow();
begin();
