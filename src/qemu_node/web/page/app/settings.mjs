// What somebody has chosen for this browser: search, filters, order, look. No secret is kept.
import { effect, signal } from './html.mjs';

function kept(name, initial) {
  let value = initial;
  try {
    value = localStorage.getItem(`qn-${name}`) ?? initial;
  } catch {
    // A browser that keeps nothing.
  }
  const chosen = signal(value);
  effect(() => {
    try {
      localStorage.setItem(`qn-${name}`, chosen.value);
    } catch {
      // As above.
    }
  });
  return chosen;
}

export const look = kept('look', 'grid');
export const sort = kept('sort', 'job');
export const theme = kept('theme', 'system');
export const layout = kept('layout', 'us');
export const search = signal('');
export const job = signal('');
export const state = signal('');

effect(() => {
  document.documentElement.dataset.theme = theme.value;
});
