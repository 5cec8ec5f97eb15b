// Where in the page somebody is: the part of the address after `#`.
import { signal } from './html.mjs';

/** Return the place of a fragment: `{page, vmId, tab}`. */
export function placeOf(hash) {
  const parts = hash.replace(/^#?\/?/, '').split('/');
  try {
    if (parts[0] === 'vm' && parts[1]) {
      return { page: 'vm', vmId: decodeURIComponent(parts[1]), tab: parts[2] || 'screen' };
    }
  } catch {
    // A broken %-escape.
  }
  return { page: ['cluster', 'node'].includes(parts[0]) ? parts[0] : 'vms', vmId: '', tab: '' };
}

export const place = signal(placeOf(location.hash));

addEventListener('hashchange', () => {
  place.value = placeOf(location.hash);
});

export function vmHref(vmId, tab = 'screen') {
  return `#/vm/${encodeURIComponent(vmId)}/${tab}`;
}
