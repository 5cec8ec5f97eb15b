// Who is logged in. Owns the ways in and out; does not own the form that asks (login.mjs).
import { signal } from './html.mjs';
import { get, post, whenLoggedOut } from './api.mjs';
import { moveTo, rememberPlace, returnToPlace } from './place.mjs';

/** undefined: not known yet; null: nobody; else the session. */
export const session = signal(undefined);
/** Why somebody is logged out, and why the last attempt failed. */
export const notice = signal(null);
/** How one can log in here. */
export const ways = signal({ ways: ['token'], oidc_methods: [], why: '' });

const ONE_TIME = ['ott', 'link'];
const ENTER_AGAIN_MS = 30_000;
let enteredAt = -Infinity;

/** Return what the address brings for the login, and take it out of the address and history. */
export function takeFragment() {
  const given = new URLSearchParams(location.hash.replace(/^#\/?/, ''));
  const way = ONE_TIME.find((name) => given.get(name));
  if (!way) return null;
  const to = given.get('to') ?? '';
  moveTo(/^\/[\w/.-]*$/.test(to) ? `#${to}` : '');
  return { [way]: given.get(way) };
}

/** Find out whether somebody is logged in; log in with what the address brings. */
export async function begin() {
  whenLoggedOut((error) => {
    if (session.peek()) notice.value = { message: 'Your session has ended.', hint: error.hint };
    forget();
  });
  const given = takeFragment();
  if (given && (await logIn(given))) return;
  try {
    session.value = await get('/session');
  } catch (error) {
    if (error.status !== 401) notice.value = error;
    if (session.peek() === undefined) session.value = null;
  }
  if (session.peek()) returnToPlace();
  else await learnWays();
}

async function learnWays() {
  try {
    ways.value = await get('/login');
    // By itself, but not again and again: in a browser that takes no cookie no session lasts.
    const isOpen = ways.value.ways.length === 1 && ways.value.ways[0] === 'open';
    if (!isOpen || performance.now() - enteredAt < ENTER_AGAIN_MS) return;
    enteredAt = performance.now();
    await logIn({ open: true });
  } catch {
    // The form offers a token then.
  }
}

/** Log in; tell whether it worked. `body` has one of token, ott, link, password, open. */
export async function logIn(body) {
  try {
    session.value = await post('/login', body);
    notice.value = null;
    return true;
  } catch (error) {
    notice.value = error;
    if (session.peek() === undefined) session.value = null;
    return false;
  }
}

/** Send the browser to a provider that Nomad knows. */
export async function logInThrough(method) {
  try {
    const { url } = await post('/login/oidc', { method });
    if (!/^https?:/.test(url)) throw new Error('Nomad named no address of the provider.');
    rememberPlace();
    location.assign(url);
  } catch (error) {
    notice.value = error;
  }
}

export async function logOut() {
  try {
    await post('/logout');
  } catch (error) {
    // Without an answer the session may live: do not pretend that it has ended.
    if (error.status !== 401) {
      notice.value = error;
      return;
    }
  }
  notice.value = null;
  forget();
}

function forget() {
  session.value = null;
  learnWays();
}
