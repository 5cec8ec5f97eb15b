// Where in the page somebody is: the part of the address after `#`.
import { signal } from './html.mjs';

const LEFT = 'qn-place';

/** Return the place of a fragment: `{page, vmId, allocId, tab}`. */
export function placeOf(hash) {
  const [page, name, tab] = hash.replace(/^#?\/?/, '').split('/');
  const nowhere = { page: 'vms', vmId: '', allocId: '', tab: '' };
  try {
    if (page === 'vm' && name) return { ...nowhere, page, vmId: decodeURIComponent(name), tab: tab || 'screen' };
    if (page === 'alloc' && name) return { ...nowhere, page, allocId: decodeURIComponent(name) };
  } catch {
    // A broken %-escape.
  }
  return { ...nowhere, page: ['cluster', 'node'].includes(page) ? page : 'vms' };
}

export const place = signal(placeOf(location.hash));

function look() {
  place.value = placeOf(location.hash);
}

addEventListener('hashchange', look);

/** Be at the place of `fragment`, without an entry in the history. */
export function moveTo(fragment) {
  history.replaceState(null, '', location.pathname + fragment);
  look();
}

/** Remember the place over the way to another site and back. */
export function rememberPlace() {
  try {
    sessionStorage.setItem(LEFT, location.hash);
  } catch {
    // A browser that keeps nothing.
  }
}

/** Be where somebody was before that way. */
export function returnToPlace() {
  try {
    const left = sessionStorage.getItem(LEFT);
    sessionStorage.removeItem(LEFT);
    if (left && !location.hash) moveTo(left);
  } catch {
    // As above.
  }
}

export function vmHref(vmId, tab = 'screen') {
  return `#/vm/${encodeURIComponent(vmId)}/${tab}`;
}
