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
// A browser opens six connections to a host for all of its pages, and each stream takes one: six pages
// that nobody sees would leave none to the one that somebody sees.
const HIDDEN_MS = 15_000;
// The console says something every 15 s. A network that goes without a word is noticed by nobody else.
const SILENT_MS = 40_000;
const LOOK_MS = 5000;
let source = null;
let timer = 0;
let attempt = 0;
let hiddenTimer = 0;
let heardAt = 0;

function open() {
  close();
  stream.value = stream.peek() === 'lost' ? 'lost' : 'connecting';
  // `visibilitychange` opens it.
  if (document.hidden) return;
  heardAt = performance.now();
  source = new EventSource(`${API}/events`);
  listen('snapshot', (data) => {
    attempt = 0;
    lost.value = null;
    applySnapshot(data);
    stream.value = 'live';
  });
  listen('delta', applyDelta);
  listen('beat', () => {});
  listen('session', (data) => {
    if (data.rights) rights.value = data.rights;
    if (data.is_over) get('/session').catch(() => {});
  });
  // Also after a connection that was good: a browser's own attempts end at an answer like 503.
  source.onerror = again;
}

function listen(name, take) {
  source.addEventListener(name, (event) => {
    heardAt = performance.now();
    take(JSON.parse(event.data));
  });
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
  setInterval(() => { if (source && performance.now() - heardAt > SILENT_MS) again(); }, LOOK_MS);
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
