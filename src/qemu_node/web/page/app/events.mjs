// The stream of events: one for the whole page. Owns its life: it begins with a session, comes back by
// itself after any loss, and rests while nobody can see the page.
import { effect, signal } from './html.mjs';
import { API, get } from './api.mjs';
import { applyDelta, applySnapshot, forgetAll, rights } from './fleet.mjs';
import { session } from './session.mjs';

/** `off`, `connecting`, `live` or `lost`. */
export const stream = signal('off');
/** Why it is lost, and when the next attempt is. */
export const lost = signal(null);

const PAUSES_MS = [500, 1000, 2000, 4000, 8000];
const HIDDEN_MS = 300_000;
let source = null;
let timer = 0;
let attempt = 0;
let hiddenTimer = 0;

function open() {
  close();
  stream.value = stream.peek() === 'lost' ? 'lost' : 'connecting';
  source = new EventSource(`${API}/events`);
  listen('snapshot', (data) => {
    attempt = 0;
    lost.value = null;
    applySnapshot(data);
    stream.value = 'live';
  });
  listen('delta', applyDelta);
  listen('session', (data) => {
    if (data.rights) rights.value = data.rights;
    if (data.is_over) get('/session').catch(() => {});
  });
  // Also after a connection that was good: a browser's own attempts end at an answer like 503.
  source.onerror = again;
}

function listen(name, take) {
  source.addEventListener(name, (event) => take(JSON.parse(event.data)));
}

function close() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

async function again() {
  close();
  stream.value = 'lost';
  const pause = PAUSES_MS[Math.min(attempt, PAUSES_MS.length - 1)];
  attempt += 1;
  timer = setTimeout(open, pause);
  try {
    // Tells why, and finds out that the session has ended.
    await get('/session');
  } catch (error) {
    if (error.status !== 401) lost.value = error;
  }
}

/** Try now, for somebody who does not want to wait. */
export function retry() {
  attempt = 0;
  open();
}

/** Follow the session: a stream while there is one. */
export function follow() {
  effect(() => {
    if (session.value) {
      attempt = 0;
      open();
    } else {
      close();
      stream.value = 'off';
      forgetAll();
    }
  });
  addEventListener('online', () => { if (session.peek()) retry(); });
  document.addEventListener('visibilitychange', () => {
    clearTimeout(hiddenTimer);
    if (document.hidden) {
      hiddenTimer = setTimeout(close, HIDDEN_MS);
    } else if (session.peek() && !source) {
      retry();
    }
  });
}
